//! Lines of input from strangers: no line takes more memory than a bound.

use std::io::BufRead;

/// Longest line of JSON Lines, in bytes: a record, or a request with all of its records.
pub const MAX_LINE: usize = 64 << 20;

/// What [`read_line`] came upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// The end; there is no line.
    End,
    /// A line.
    Whole,
    /// A line of more than the bound. [`skip_line`] goes to its end.
    TooLong,
}

/// Reads the next line into `line`, which is emptied first, without its line feed. Of a line of more than
/// `most` bytes no more than that is read, and `line` stays empty.
pub fn read_line(from: &mut impl BufRead, line: &mut Vec<u8>, most: usize) -> std::io::Result<Line> {
    line.clear();
    let mut is_line = false;
    loop {
        let bytes = match from.fill_buf() {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if bytes.is_empty() {
            return Ok(if is_line { Line::Whole } else { Line::End });
        }
        is_line = true;
        let end = bytes.iter().position(|b| *b == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        if line.len() + part.len() > most {
            *line = Vec::new();
            return Ok(Line::TooLong);
        }
        line.extend_from_slice(part);
        let used = part.len() + usize::from(end.is_some());
        from.consume(used);
        if end.is_some() {
            return Ok(Line::Whole);
        }
    }
}

/// Passes over the rest of a line.
pub fn skip_line(from: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let bytes = match from.fill_buf() {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let end = bytes.iter().position(|b| *b == b'\n');
        let used = end.map_or(bytes.len(), |end| end + 1);
        let is_over = end.is_some() || bytes.is_empty();
        from.consume(used);
        if is_over {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    #[test]
    fn lines_come_whole_and_too_long_ones_are_passed_over() {
        for buffer in [1, 2, 3, 64] {
            let mut from = BufReader::with_capacity(buffer, &b"abcd\n\nabcde\nabcdef\nx\nabcdefg"[..]);
            let mut line = Vec::new();
            let mut seen = Vec::new();
            loop {
                let found = read_line(&mut from, &mut line, 5).unwrap();
                if found == Line::TooLong {
                    assert!(line.is_empty());
                    skip_line(&mut from).unwrap();
                }
                seen.push((found, String::from_utf8(line.clone()).unwrap()));
                if found == Line::End {
                    break;
                }
            }
            let whole = |text: &str| (Line::Whole, text.to_string());
            let long = || (Line::TooLong, String::new());
            let end = (Line::End, String::new());
            assert_eq!(seen, [whole("abcd"), whole(""), whole("abcde"), long(), whole("x"), long(), end]);
        }
    }
}
