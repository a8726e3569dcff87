//! Commands: what starts with a backslash.

use super::token::{Kind, Lexer, tokens};

const FONTS: [&str; 14] = [
    "mathrm",
    "mathbf",
    "mathit",
    "mathsf",
    "mathcal",
    "mathbb",
    "mathfrak",
    "mathscr",
    "mathtt",
    "mathnormal",
    "operatorname",
    "boldsymbol",
    "bm",
    "mathop",
];
/// Frames, whose content is read as if they weren't there.
const FRAMES: [&str; 2] = ["boxed", "fbox"];
const TEXTS: [&str; 12] = [
    "text",
    "textbf",
    "textit",
    "textrm",
    "textsf",
    "texttt",
    "mbox",
    "hbox",
    "textnormal",
    "textup",
    "emph",
    "underline",
];
/// Commands without arguments that only concern looks, and signs of currencies and degrees.
const LOOKS: [&str; 42] = [
    "left",
    "right",
    "big",
    "Big",
    "bigg",
    "Bigg",
    "bigl",
    "bigr",
    "Bigl",
    "Bigr",
    "biggl",
    "biggr",
    "Biggl",
    "Biggr",
    "displaystyle",
    "textstyle",
    "scriptstyle",
    "limits",
    "nolimits",
    "middle",
    "quad",
    "qquad",
    "enspace",
    "thinspace",
    "degree",
    "textdegree",
    "mathstrut",
    "strut",
    "allowbreak",
    "nobreak",
    "newline",
    "pounds",
    "textsterling",
    "euro",
    "texteuro",
    "yen",
    "textdollar",
    "textpercent",
    "rm",
    "bf",
    "it",
    "boldmath",
];
/// Commands that only concern looks, with an argument of theirs.
const LOOKS_WITH_ARGUMENT: [&str; 10] =
    ["color", "textcolor", "hspace", "vspace", "phantom", "hphantom", "vphantom", "label", "tag", "fontsize"];
/// Commands for one sign.
const SIGNS: [(&str, char); 36] = [
    ("cdot", '*'),
    ("times", '*'),
    ("ast", '*'),
    ("div", '/'),
    ("le", '≤'),
    ("leq", '≤'),
    ("leqslant", '≤'),
    ("leqq", '≤'),
    ("ge", '≥'),
    ("geq", '≥'),
    ("geqslant", '≥'),
    ("geqq", '≥'),
    ("lt", '<'),
    ("gt", '>'),
    ("ne", '≠'),
    ("neq", '≠'),
    ("approx", '≈'),
    ("approxeq", '≈'),
    ("thickapprox", '≈'),
    ("simeq", '≈'),
    ("doteq", '≈'),
    ("in", '∈'),
    ("setminus", '∖'),
    ("smallsetminus", '∖'),
    ("backslash", '∖'),
    ("cup", '∪'),
    ("cap", '∩'),
    ("vert", '|'),
    ("lvert", '|'),
    ("rvert", '|'),
    ("Vert", '|'),
    ("lVert", '|'),
    ("rVert", '|'),
    ("mid", '|'),
    ("colon", ':'),
    ("prime", '\''),
];
const BRACKETS: [(&str, Kind); 8] = [
    ("lbrace", Kind::Open('S')),
    ("rbrace", Kind::Close('S')),
    ("lbrack", Kind::Open('[')),
    ("rbrack", Kind::Close(']')),
    ("lparen", Kind::Open('(')),
    ("rparen", Kind::Close(')')),
    ("langle", Kind::Open('<')),
    ("rangle", Kind::Close('<')),
];

impl Lexer<'_> {
    pub(super) fn command(&mut self) {
        let start = self.at + 1;
        let mut end = start;
        while self.chars.get(end).is_some_and(char::is_ascii_alphabetic) {
            end += 1;
        }
        if end == start {
            return self.escape(start);
        }
        let name: String = self.chars[start..end].iter().collect();
        self.at = end;
        if let Some((_, sign)) = SIGNS.iter().find(|(command, _)| *command == name) {
            return self.push(Kind::Sign(*sign));
        }
        if let Some((_, bracket)) = BRACKETS.iter().find(|(command, _)| *command == name) {
            return self.push(bracket.clone());
        }
        match name.as_str() {
            n if TEXTS.contains(&n) => match self.group() {
                Some(content) => self.text(content),
                None => self.space = true,
            },
            n if FRAMES.contains(&n) => self.framed(),
            n if FONTS.contains(&n) => self.font(),
            n if LOOKS.contains(&n) => self.look(n),
            n if LOOKS_WITH_ARGUMENT.contains(&n) => {
                self.optional();
                self.group();
                self.framed();
            }
            "dfrac" | "tfrac" | "cfrac" => self.push(Kind::Command("frac".into())),
            "dbinom" | "tbinom" => self.push(Kind::Command("binom".into())),
            "vee" => self.push(Kind::Command("lor".into())),
            "wedge" => self.push(Kind::Command("land".into())),
            "ldots" | "cdots" | "dotsc" => self.push(Kind::Command("dots".into())),
            "varnothing" => self.push(Kind::Command("emptyset".into())),
            "deg" if self.is_after_number() && self.ends_number() => self.space = true,
            "circ" if self.is_after_number() => self.space = true,
            "begin" => {
                let environment = self.group().unwrap_or_default();
                if environment == "array" {
                    // Its column specification.
                    self.group();
                }
                self.push(Kind::Begin(environment));
            }
            "end" => {
                self.group();
                self.push(Kind::End);
            }
            _ => self.push(Kind::Command(name)),
        }
    }

    /// The group after a command for looks. Around a whole answer its braces are left out, since
    /// those of `{1,2}` are a set's.
    fn framed(&mut self) {
        let start = self.at;
        if self.out.is_empty()
            && let Some(content) = self.group()
            && self.chars[self.at..].iter().all(|c| " $.,\\)]!".contains(*c))
        {
            return self.out.extend(tokens(&content));
        }
        (self.at, self.looks) = (start, true);
    }

    /// A backslash before what is no letter.
    fn escape(&mut self, start: usize) {
        let c = self.chars.get(start).copied();
        self.at = (start + 1).min(self.chars.len());
        match c {
            Some('{') => self.push(Kind::Open('S')),
            Some('}') => self.push(Kind::Close('S')),
            Some('\\') => {
                self.push(Kind::Row);
                self.row_space();
            }
            Some('|') => self.push(Kind::Sign('|')),
            Some(' ' | ',' | ';' | ':' | '>') => self.space = true,
            // `\!`, `\$`, `\%`, and the delimiters `\(`, `\)`, `\[`, `\]`.
            _ => {}
        }
    }

    /// What only concerns looks. The delimiter after `\left` may be none, or an angle.
    fn look(&mut self, name: &str) {
        self.space |= ["quad", "space", "line", "degree"].iter().any(|end| name.ends_with(end));
        let lower = name.to_lowercase();
        if !lower.starts_with("big") && !["left", "right", "middle"].contains(&name) {
            return;
        }
        while self.peek(0) == Some(' ') {
            self.at += 1;
        }
        let bracket = match self.peek(0) {
            Some('.') => None,
            Some('<') if name == "left" || lower.ends_with('l') => Some(Kind::Open('<')),
            Some('>') if name == "right" || lower.ends_with('r') => Some(Kind::Close('<')),
            _ => return,
        };
        self.at += 1;
        if let Some(bracket) = bracket {
            self.push(bracket);
        }
    }

    /// `\text{…}`. A text of nothing but digits and letters in which both are is a code, and no
    /// product.
    fn text(&mut self, content: String) {
        let code = content.trim();
        let letters = code.chars().any(|c| c.is_ascii_uppercase());
        let digits = code.starts_with(|c: char| c.is_ascii_digit());
        if letters && digits && code.chars().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase()) {
            let code = code.to_string();
            if !self.base_follows(&code) {
                self.push(Kind::Opaque(code.to_lowercase()));
            }
            return;
        }
        if code.chars().all(|c| c.is_ascii_alphanumeric()) && self.base_follows(code) {
            return;
        }
        self.push(Kind::Text(content));
    }

    /// Whether nothing follows that a function could be applied to.
    fn ends_number(&self) -> bool {
        let mut rest = self.chars[self.at..].iter().copied().filter(|c| *c != ' ');
        match rest.next() {
            Some('\\') => !rest.next().is_some_and(char::is_alphabetic),
            Some(c) => !c.is_alphanumeric() && !"({|".contains(c),
            None => true,
        }
    }

    /// Skips `[…]`.
    fn optional(&mut self) {
        if self.peek(0) == Some('[')
            && let Some(length) = self.chars[self.at..].iter().position(|c| *c == ']')
        {
            self.at += length + 1;
        }
    }

    /// Skips the space after a row: `\\[4pt]`.
    fn row_space(&mut self) {
        if self.peek(0) != Some('[') {
            return;
        }
        let Some(length) = self.chars[self.at..].iter().position(|c| *c == ']') else { return };
        let inside: String = self.chars[self.at + 1..self.at + length].iter().collect();
        if ["pt", "em", "ex", "mm", "cm"].iter().any(|unit| inside.trim().ends_with(unit)) {
            self.at += length + 1;
        }
    }

    /// The raw content of a `{…}` that comes next.
    pub(super) fn group(&mut self) -> Option<String> {
        let mut open = self.at;
        while self.chars.get(open) == Some(&' ') {
            open += 1;
        }
        if self.chars.get(open) != Some(&'{') {
            return None;
        }
        let mut depth = 0i32;
        for end in open..self.chars.len() {
            let escaped = self.chars[end - 1] == '\\';
            match self.chars[end] {
                '{' if !escaped => depth += 1,
                '}' if !escaped => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                self.at = end + 1;
                return Some(self.chars[open + 1..end].iter().collect());
            }
        }
        None
    }

    /// `\mathrm{cm}` is a text, `\mathbf{v}` is what it holds.
    fn font(&mut self) {
        let start = self.at;
        if self.peek(0) == Some('*') {
            self.at += 1;
        }
        let Some(content) = self.group() else { return };
        let content = content.replace('~', " ");
        let words = content.trim();
        let unit = |c: char| c.is_alphabetic() || [' ', '/', '.'].contains(&c);
        let is_letter = words.len() == 1 && words.chars().all(|c| c.is_ascii_alphabetic());
        if super::expression::is_known(words) || is_letter {
            self.push(Kind::Word(words.into()));
        } else if words.chars().count() > 1
            && words.starts_with(char::is_alphabetic)
            && words.chars().all(unit)
        {
            self.text(content);
        } else {
            // Read again, as a group.
            (self.at, self.looks) = (start, true);
        }
    }
}
