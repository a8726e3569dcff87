//! Chat templates as transformers renders them: Jinja with trimmed blocks, Python's string methods, and no clock.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, ErrorKind, context};
use regex::Regex;

use super::Message;
use crate::error::{Error, Result};

/// Instructions a template may execute, so that none can hang; a long conversation takes a few thousand.
const FUEL: u64 = 5_000_000;
const NAME: &str = "chat_template";

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: Vec<(String, String)>,
    place: String,
}

impl ChatTemplate {
    /// Compiles `source`; `special_tokens` are names such as `bos_token` with their text, `place` names the template in errors.
    pub fn new(source: &str, special_tokens: Vec<(String, String)>, place: String) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| Error::Internal(e.to_string()))?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|e| Error::input(&place, explain(&e)))?;
        Ok(Self { environment, special_tokens, place })
    }

    /// The text of a conversation; with `add_generation_prompt` it waits for the assistant's next turn.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|m| Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())]))
            .collect();
        let special = Value::from_pairs(self.special_tokens.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let variables = context! { messages, tools => (), documents => (), add_generation_prompt, ..special };
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(variables))
            .map_err(|e| Error::input(&self.place, explain(&e)))
    }

    /// Names the template in errors.
    pub fn place(&self) -> &str {
        &self.place
    }
}

fn explain(e: &minijinja::Error) -> String {
    let line = e.line().map_or(String::new(), |line| format!("line {line}: "));
    if e.kind() == ErrorKind::OutOfFuel {
        return format!("{line}found a template that does not end within {FUEL} instructions");
    }
    let detail = e.detail().map_or(String::new(), |d| format!(": {}", d.replace('\n', " ")));
    format!("{line}{}{detail}", e.kind())
}

/// `{% generation %}` only marks the assistant's text for transformers; a block that always renders keeps its whitespace control.
fn without_generation_tags(source: &str) -> String {
    let open = Regex::new(r"\{%([-+]?)\s*generation\s*([-+]?)%\}").expect("a valid pattern");
    let close = Regex::new(r"\{%([-+]?)\s*endgeneration\s*([-+]?)%\}").expect("a valid pattern");
    let source = open.replace_all(source, "{%$1 if true $2%}");
    close.replace_all(&source, "{%$1 endif $2%}").into_owned()
}

/// `tojson` as transformers has it: `json.dumps` without ASCII or HTML escapes.
fn to_json(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<Value, minijinja::Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get("indent")?,
    };
    options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    let text =
        minijinja::filters::tojson(value, indent, Kwargs::from_iter::<[(&str, Value); 0]>([]))?.to_string();

    // minijinja escapes what HTML would read; take back exactly those escapes.
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = &rest[at..];
        let html = [("\\u003c", '<'), ("\\u003e", '>'), ("\\u0026", '&'), ("\\u0027", '\'')];
        let len = match html.iter().find(|(e, _)| escape.starts_with(e)) {
            Some((e, c)) => {
                out.push(*c);
                e.len()
            }
            None => {
                let len = 2.min(escape.len());
                out.push_str(&escape[..len]);
                len
            }
        };
        rest = &escape[len..];
    }
    out.push_str(rest);
    Ok(Value::from_safe_string(out))
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
             {% if strftime_now is defined %}clock{% endif %}{% if tools is not none %}tools{% endif %}{{ unk_token }}\
             {% if add_generation_prompt %}<|assistant|>{% endif %}",
        );
        assert_eq!(t.render(&talk(), true).unwrap(), "user<|assistant|>");
        assert_eq!(t.render(&talk(), false).unwrap(), "user");
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
