//! One writing of characters that look alike or mean the same: signs, digits, spaces, LaTeX's
//! spacing and fonts.

/// A space that only ever joins the digits of one number: thin, narrow or no-break, or one of
/// LaTeX's.
pub const JOINING_SPACE: char = '\u{202f}';

/// What replaces what. The order counts: a longer command comes before its prefix.
const COMMANDS: [(&str, &str); 26] = [
    ("{,}", ","),
    (r"\!", ""),
    (r"\,", "\u{202f}"),
    (r"\;", "\u{202f}"),
    (r"\:", "\u{202f}"),
    (r"\ ", "\u{202f}"),
    (r"\thinspace", "\u{202f}"),
    (r"\qquad", "  "),
    (r"\quad", "  "),
    (r"\displaystyle", ""),
    (r"\$", "$"),
    (r"\textdollar", "$"),
    (r"\pounds", "£"),
    (r"\euro", "€"),
    (r"\yen", "¥"),
    (r"\%", "%"),
    (r"\_", "_"),
    (r"\#", "#"),
    (r"\dfrac", r"\frac"),
    (r"\tfrac", r"\frac"),
    (r"\cfrac", r"\frac"),
    (r"\frac{-", r"-\frac{"),
    (r"\leftarrow", "←"),
    (r"\rightarrow", "→"),
    (r"\left", ""),
    (r"\right", ""),
];

/// Commands that change only how their argument looks.
const FONTS: [&str; 19] = [
    r"\text{",
    r"\textbf{",
    r"\textit{",
    r"\textrm{",
    r"\textsf{",
    r"\texttt{",
    r"\textnormal{",
    r"\mathrm{",
    r"\mathbf{",
    r"\mathit{",
    r"\mathsf{",
    r"\mathtt{",
    r"\boldsymbol{",
    r"\bm{",
    r"\emph{",
    r"\underline{",
    r"\mbox{",
    r"\operatorname{",
    r"\boxed{",
];

/// The zeros of the decimal digits of all scripts (Unicode's category Nd); the other nine follow
/// each.
const ZEROS: [u32; 76] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50,
    0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40,
    0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x10d40,
    0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x116d0, 0x116da,
    0x11730, 0x118e0, 0x11950, 0x11bf0, 0x11c50, 0x11d50, 0x11da0, 0x11f50, 0x16130, 0x16a60, 0x16ac0,
    0x16b50, 0x16d70, 0x1ccf0, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e4f0,
    0x1e5f1, 0x1e950, 0x1fbf0,
];

/// A decimal digit of any script as an ASCII digit.
fn digit(c: char) -> Option<char> {
    let code = u32::from(c);
    if code < 0x80 {
        return c.is_ascii_digit().then_some(c);
    }
    let zero = ZEROS[..ZEROS.partition_point(|&zero| zero <= code)].last()?;
    char::from_digit(code - zero, 10)
}

/// The fraction that one character stands for.
fn vulgar(c: char) -> Option<&'static str> {
    Some(match c {
        '½' => "1/2",
        '⅓' => "1/3",
        '⅔' => "2/3",
        '¼' => "1/4",
        '¾' => "3/4",
        '⅕' => "1/5",
        '⅖' => "2/5",
        '⅗' => "3/5",
        '⅘' => "4/5",
        '⅙' => "1/6",
        '⅚' => "5/6",
        '⅐' => "1/7",
        '⅛' => "1/8",
        '⅜' => "3/8",
        '⅝' => "5/8",
        '⅞' => "7/8",
        '⅑' => "1/9",
        '⅒' => "1/10",
        _ => return None,
    })
}

/// The text with one kind of minus, digits and spaces, and without LaTeX's spacing and font
/// commands.
pub fn simplify(text: &str) -> String {
    let mut out = plain_characters(text);
    for (from, to) in COMMANDS {
        if out.contains(from) {
            out = out.replace(from, to);
        }
    }
    if FONTS.iter().any(|font| out.contains(font)) {
        out = without_fonts(&out);
    }
    out
}

/// The text with ASCII in the place of what looks like it or means the same.
pub fn plain_characters(text: &str) -> String {
    if text.is_ascii() {
        return text.to_string();
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let mut previous = '\0';
    while let Some(c) = chars.next() {
        let next = chars.peek().copied().unwrap_or('\0');
        let between = |is: fn(char) -> bool| is(previous) && is(next);
        match c {
            _ if c.is_ascii() => out.push(c),
            '\u{2212}' | '\u{2010}'..='\u{2013}' | '\u{fe63}' | '\u{ff0d}' | '\u{2796}' => out.push('-'),
            '\u{a0}' | '\u{2009}' | '\u{202f}' | '\u{2007}' | '\u{2008}' | '\u{200a}' => {
                out.push(JOINING_SPACE);
            }
            '\u{3000}' => out.push(' '),
            // These have no width: they separate nothing.
            '\u{200b}' | '\u{200c}' | '\u{200d}' | '\u{200e}' | '\u{200f}' | '\u{2060}' | '\u{feff}' => {}
            '\u{2044}' | '\u{2215}' => out.push('/'),
            '\u{2217}' => out.push('*'),
            '\u{66b}' => out.push('.'),
            '\u{66c}' => out.push(','),
            // Between full-width digits they are part of the number, elsewhere punctuation of the
            // sentence.
            '\u{ff0c}' if between(is_wide_digit) => out.push(','),
            '\u{ff0c}' => out.push(c),
            '\u{ff0e}' if between(|c| digit(c).is_some()) => out.push('.'),
            '\u{ff0e}' => out.push(c),
            '\u{ff01}'..='\u{ff5e}' => {
                out.extend(char::from_u32(u32::from(c) - 0xfee0));
            }
            _ => match (digit(c), vulgar(c)) {
                (Some(digit), _) => out.push(digit),
                (None, Some(fraction)) => {
                    if out.ends_with(|c: char| c.is_ascii_digit()) {
                        out.push(' ');
                    }
                    out.push_str(fraction);
                }
                (None, None) => out.push(c),
            },
        }
        previous = c;
    }
    out
}

fn is_wide_digit(c: char) -> bool {
    ('\u{ff10}'..='\u{ff19}').contains(&c)
}

/// The text without the commands and braces of fonts. One pass, however often they occur.
fn without_fonts(text: &str) -> String {
    let closing = closing_braces(text);
    let mut out = String::with_capacity(text.len());
    let mut closed: Vec<usize> = Vec::new();
    let mut at = 0;
    while at < text.len() {
        if closed.last() == Some(&at) {
            closed.pop();
            at += 1;
            continue;
        }
        let rest = &text[at..];
        let font = rest.starts_with('\\').then(|| FONTS.iter().find(|font| rest.starts_with(**font)));
        if let Some(font) = font.flatten() {
            let open = at + font.len() - 1;
            if ends_with_command(&out) {
                out.push(' ');
            }
            // One that is never closed goes by itself.
            closed.extend(closing.binary_search_by_key(&open, |pair| pair.0).ok().map(|i| closing[i].1));
            at = open + 1;
            continue;
        }
        let Some(c) = rest.chars().next() else { break };
        out.push(c);
        at += c.len_utf8();
    }
    out
}

/// Whether the name of a LaTeX command ends here, which a letter would go on.
fn ends_with_command(text: &str) -> bool {
    let letters = text.bytes().rev().take(24).take_while(u8::is_ascii_alphabetic).count();
    letters > 0 && text[..text.len() - letters].ends_with('\\')
}

/// Byte offsets of all braces that are closed and of what closes them, in order; escaped braces
/// don't count.
fn closing_braces(text: &str) -> Vec<(usize, usize)> {
    let (mut open, mut pairs) = (Vec::new(), Vec::new());
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => open.push(i),
            '}' => pairs.extend(open.pop().map(|from| (from, i))),
            _ => {}
        }
    }
    pairs.sort_unstable();
    pairs
}

/// The byte offset of the brace that closes the one just before `from`; escaped braces don't count.
pub fn closing_brace(text: &str, from: usize) -> Option<usize> {
    let mut depth = 1usize;
    let mut escaped = false;
    for (i, c) in text[from..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(from + i);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_of_every_script_are_known() {
        let decimal = regex::Regex::new(r"^\p{Nd}$").unwrap();
        assert!(ZEROS.is_sorted());
        let mut buffer = [0; 4];
        for c in '\0'..=char::MAX {
            let known = decimal.is_match(c.encode_utf8(&mut buffer));
            assert_eq!(digit(c).is_some(), known, "{c:?} U+{:x}", u32::from(c));
        }
        assert_eq!(plain_characters("１２３ ٤٥٦ ७८९ 𝟎"), "123 456 789 0");
    }

    #[test]
    fn full_width_characters_become_ascii() {
        assert_eq!(plain_characters("（１，２３４．５）％"), "(1,234.5)%");
        assert_eq!(plain_characters("18，24"), "18，24");
        assert_eq!(plain_characters("1½ ¾"), "1 1/2 3/4");
        assert_eq!(plain_characters("\u{feff}1\u{200b}8"), "18");
    }

    #[test]
    fn fonts_and_spacing_go_and_what_they_hold_stays() {
        assert_eq!(simplify(r"\text{a \textbf{3}}\,\mathrm{km}"), "a 3\u{202f}km");
        assert_eq!(simplify(r"\text{a \textbf{3} \text{4"), "a 3 4");
        assert_eq!(simplify(r"\boxed{\text{x\}y}}"), r"x\}y");
        assert_eq!(simplify(r"\frac{-1}{2}"), r"-\frac{1}{2}");
    }
}
