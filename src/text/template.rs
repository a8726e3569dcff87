//! Chat templates as transformers renders them: Jinja with trimmed blocks, Python's methods, and a clock that stands still.

use minijinja::UndefinedBehavior;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use regex::Regex;

use super::{BoundedTemplate, Message};
use crate::error::{Error, Result};

/// A compiled chat template.
pub struct ChatTemplate {
    template: BoundedTemplate,
    /// Names such as `bos_token` with their text.
    special_tokens: Vec<(String, String)>,
}

impl ChatTemplate {
    /// Compiles `source`; `special_tokens` are names such as `bos_token` with their text, `place` names the template in errors.
    pub fn new(source: &str, special_tokens: Vec<(String, String)>, place: String) -> Result<Self> {
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        let syntax = syntax.map_err(|e| Error::Internal(e.to_string()))?;
        let mut template =
            BoundedTemplate::new(prepared(source), syntax, UndefinedBehavior::default(), place)?;
        template.environment().add_function("strftime_now", strftime);
        Ok(Self { template, special_tokens })
    }

    /// The text of a conversation; with `add_generation_prompt` it waits for the assistant's next turn.
    ///
    /// The same conversation gives the same text on any day: `strftime_now` knows only Friday, 26 July 2024, the date that Llama 3's templates
    /// fall back to where there is no clock. A conversation that is rendered for training tomorrow must not differ from the one that was sampled.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let bytes = messages.iter().map(|m| m.role.len() + m.content.len()).sum();
        let messages: Value = messages
            .iter()
            .map(|m| Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())]))
            .collect();
        let mut variables = vec![
            ("messages", messages),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
        ];
        variables.extend(
            self.special_tokens.iter().map(|(name, text)| (name.as_str(), Value::from(text.as_str()))),
        );
        self.template.render(variables, bytes)
    }

    /// Names the template in errors.
    pub fn place(&self) -> &str {
        self.template.place()
    }
}

/// A template's source as minijinja takes it. Jinja reads every kind of line end as a line feed, and `{% generation %}` only marks the
/// assistant's text for transformers: a block that has its own variables, as that one has, keeps its whitespace control.
fn prepared(source: &str) -> String {
    let open = Regex::new(r"\{%([-+]?)\s*generation\s*([-+]?)%\}").expect("a valid pattern");
    let close = Regex::new(r"\{%([-+]?)\s*endgeneration\s*([-+]?)%\}").expect("a valid pattern");
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = open.replace_all(&source, "{%$1 with $2%}");
    close.replace_all(&source, "{%$1 endwith $2%}").into_owned()
}

/// Bytes of the longest format of dates; those of published templates have about ten.
const LONGEST_FORMAT: usize = 256;

/// `datetime.now().strftime(format)` at midnight of Friday, 26 July 2024.
fn strftime(format: &str) -> Result<String, minijinja::Error> {
    if format.len() > LONGEST_FORMAT {
        let detail =
            format!("found a format of dates of {} bytes, expected at most {LONGEST_FORMAT}", format.len());
        return Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, detail));
    }
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        // glibc's `%-d`: without the leading zero.
        let mut directive = rest.next();
        let plain = directive == Some('-');
        if plain {
            directive = rest.next();
        }
        let text = match directive {
            Some('Y') => "2024",
            Some('y') => "24",
            Some('m') => "07",
            Some('d' | 'e') => "26",
            Some('b' | 'h') => "Jul",
            Some('B') => "July",
            Some('a') => "Fri",
            Some('A') => "Friday",
            Some('j') => "208",
            Some('w' | 'u') => "5",
            Some('H' | 'M' | 'S') => "00",
            Some('I') => "12",
            Some('p') => "AM",
            Some('f') => "000000",
            Some('F') => "2024-07-26",
            Some('D' | 'x') => "07/26/24",
            Some('T' | 'X') => "00:00:00",
            Some('R') => "00:00",
            Some('c') => "Fri Jul 26 00:00:00 2024",
            Some('z' | 'Z') => "",
            Some('%') => "%",
            _ => {
                let detail = format!("found {format:?}, expected a format of dates and times");
                return Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, detail));
            }
        };
        let shorter = text.trim_start_matches('0');
        out.push_str(match (plain, shorter.is_empty()) {
            (false, _) => text,
            (true, true) => &text[..text.len().min(1)],
            (true, false) => shorter,
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(source: &str) -> ChatTemplate {
        let special = vec![("bos_token".into(), "<s>".into()), ("eos_token".into(), "</s>".into())];
        ChatTemplate::new(source, special, "tokenizer_config.json, field chat_template".into()).unwrap()
    }

    fn talk() -> Vec<Message> {
        vec![Message::user(" What is 1 < 2? "), Message::assistant("It's \"true\" é\\u003c")]
    }

    #[test]
    fn blocks_are_trimmed_and_python_methods_work() {
        let t = template(
            "{{ bos_token }}\n    {%- for m in messages %}\n    {% if m.role == 'user' %}\n[INST] {{ m['content'].strip() }} [/INST]\n    \
             {% else %}\n{{ m.content.split(' ')[0] }}{{ eos_token }}\n    {% endif %}\n{% endfor %}\n",
        );
        assert_eq!(t.render(&talk(), false).unwrap(), "<s>[INST] What is 1 < 2? [/INST]\nIt's</s>\n");
    }

    #[test]
    fn the_generation_prompt_undefined_names_and_loop_controls() {
        let t = template(
            "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}\
             {% if strftime_now is defined %}{{ strftime_now('%-d.%-m.%Y') }}{% endif %}{% if tools is not none %}tools{% endif %}{{ unk_token }}\
             {% if add_generation_prompt %}<|assistant|>{% endif %}",
        );
        assert_eq!(t.render(&talk(), true).unwrap(), "user26.7.2024<|assistant|>");
        assert_eq!(t.render(&talk(), false).unwrap(), "user26.7.2024");
    }

    #[test]
    fn generation_blocks_only_mark() {
        let t = template("a\n{%- generation -%}\n {{ messages[1].role }}\n{%- endgeneration %}b");
        assert_eq!(t.render(&talk(), false).unwrap(), "aassistantb");
    }

    #[test]
    fn to_json_escapes_as_python_does() {
        let t = template("{{ messages | tojson }}");
        assert_eq!(
            t.render(&talk(), false).unwrap(),
            r#"[{"role": "user", "content": " What is 1 < 2? "}, {"role": "assistant", "content": "It's \"true\" é\\u003c"}]"#
        );
        let t = template("{{ messages[1] | tojson(indent=2) }}");
        assert_eq!(
            t.render(&[Message::user(""), Message::user("&")], false).unwrap(),
            "{\n  \"role\": \"user\",\n  \"content\": \"&\"\n}"
        );
    }

    #[test]
    fn exceptions_and_syntax_errors_are_one_line() {
        let t = template("{{ raise_exception('roles must alternate') }}");
        let e = t.render(&talk(), false).unwrap_err().to_string();
        assert!(e.contains("field chat_template") && e.contains("roles must alternate"), "{e}");
        assert!(!e.contains('\n'), "{e}");
        let e =
            ChatTemplate::new("{% for %}", vec![], "chat_template.jinja".into()).err().unwrap().to_string();
        assert!(e.starts_with("chat_template.jinja: line 1: "), "{e}");
    }

    #[test]
    fn a_template_cannot_hang() {
        let t = template("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}");
        let e = t.render(&talk(), false).unwrap_err().to_string();
        assert!(e.contains("does not end"), "{e}");
    }
}
