//! Regular expressions that somebody else wrote.

/// Bytes of a pattern with its counted repetitions written out, which is what compiling it costs:
/// `\w{1000}` is short and large. Counts of brackets multiply, as they may stand in one another; of
/// the others the largest counts.
pub fn written_out(pattern: &str) -> usize {
    let (mut brackets, mut largest) = (1usize, 1);
    for (at, _) in pattern.match_indices('{') {
        let Some((inside, _)) = pattern[at + 1..].split_once('}') else { break };
        // `{3}`, `{3,}` and `{3,7}`; a number beyond any is the largest.
        let numbers = inside.split(',').filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        let count = numbers.map(|n| n.parse().unwrap_or(usize::MAX)).max().unwrap_or(1).max(1);
        if pattern[..at].ends_with(')') {
            brackets = brackets.saturating_mul(count);
        } else {
            largest = largest.max(count);
        }
    }
    pattern.len().saturating_mul(brackets).saturating_mul(largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_count() {
        for (pattern, expected) in [
            ("abc", 3),
            (r"\d{1,3}x{2}", 11 * 3),
            (r"(\w{9}){9}", 10 * 81),
            (r"\p{L}+{", 7),
            ("a{0}", 4),
            ("a{99999999999999999999}", usize::MAX),
        ] {
            assert_eq!(written_out(pattern), expected, "{pattern}");
        }
    }
}
