//! Chat templates as transformers renders them: Jinja with trimmed blocks, Python's methods, and a
//! clock that stands still.

use std::cell::OnceCell;
use std::collections::HashSet;

use minijinja::UndefinedBehavior;
use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use regex::Regex;
use serde_json::{Map, Value as Json, json};

use super::{BoundedTemplate, Message, field_names, map_texts};
use crate::error::{Error, Result};

/// A compiled chat template.
pub struct ChatTemplate {
    template: BoundedTemplate,
    /// Names such as `bos_token` with their text.
    special_tokens: Vec<(String, String)>,
    names: Names,
    /// Whether it shows messages whole, with fields that it does not name.
    shows_all: OnceCell<bool>,
    /// Whether it goes through content in parts, by role.
    reads_parts: OnceCell<[bool; ROLES.len()]>,
}

/// What the source names.
#[derive(Default)]
struct Names {
    /// Variables and functions.
    variables: HashSet<String>,
    /// The same with fields, as `.name` or `["name"]`.
    fields: HashSet<String>,
}

impl Names {
    fn of(source: &str, syntax: SyntaxConfig) -> Self {
        let mut names = Self::default();
        let mut is_field = false;
        // What is no token is the parser's to report.
        for (token, _) in tokenize(source, false, syntax).map_while(Result::ok) {
            match &token {
                Token::Ident(name) => {
                    names.fields.insert(name.to_string());
                    if !is_field {
                        names.variables.insert(name.to_string());
                    }
                }
                Token::Str(text) => drop(names.fields.insert(text.to_string())),
                Token::String(text) => drop(names.fields.insert(text.to_string())),
                _ => {}
            }
            is_field = matches!(token, Token::Dot);
        }
        names
    }
}

/// Roles of which it can be tried out whether a template reads their content in parts.
const ROLES: [&str; 3] = ["system", "user", "assistant"];

/// What a conversation gives its template beside the messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatOptions {
    /// Descriptions of tools, as transformers takes them.
    pub tools: Option<Vec<Json>>,
    /// More variables of the template, e.g. `enable_thinking`.
    pub kwargs: Map<String, Json>,
}

/// Variables that only the program itself sets.
const RESERVED: [&str; 6] = [
    "messages",
    "tools",
    "add_generation_prompt",
    "continue_final_message",
    "raise_exception",
    "strftime_now",
];

impl ChatOptions {
    /// Checks the names of the variables: the one that may not be set, and why.
    pub fn check(&self) -> Result<(), (String, String)> {
        for name in self.kwargs.keys() {
            let mut letters = name.chars();
            let is_name = letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
                && letters.all(|c| c.is_ascii_alphanumeric() || c == '_');
            let problem = match name.as_str() {
                "tools" => "reserved; `tools` is a field of the record",
                reserved if RESERVED.contains(&reserved) => "reserved, expected another variable",
                token if token.ends_with("_token") => "reserved; the tokenizer says what it is",
                _ if !is_name => "expected the name of a template's variable",
                _ => continue,
            };
            return Err((name.clone(), problem.into()));
        }
        Ok(())
    }

    /// The same with other texts in tools and variables; names stay.
    pub fn map_texts(&self, to: &impl Fn(&str) -> String) -> Self {
        let kwargs = self.kwargs.iter().map(|(name, value)| (name.clone(), map_texts(value, to)));
        let tools = self.tools.as_ref().map(|tools| tools.iter().map(|tool| map_texts(tool, to)).collect());
        Self { tools, kwargs: kwargs.collect() }
    }

    /// The names of all fields in tools and variables, those of the variables too.
    pub fn field_names(&self) -> Vec<&str> {
        let mut found = Vec::new();
        self.tools.iter().flatten().for_each(|tool| field_names(tool, &mut found));
        for (name, value) in &self.kwargs {
            found.push(name);
            field_names(value, &mut found);
        }
        found
    }

    /// Their size in bytes, as JSON.
    fn bytes(&self) -> usize {
        let tools = self.tools.iter().flatten().map(|tool| tool.to_string().len()).sum::<usize>();
        tools + self.kwargs.iter().map(|(name, v)| name.len() + v.to_string().len()).sum::<usize>()
    }
}

/// A JSON value as templates see it.
fn seen(value: &Json) -> Value {
    match value {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(n), ..) => Value::from(n),
            (None, Some(n), _) => Value::from(n),
            (None, None, n) => Value::from(n.unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(seen).collect(),
        Json::Object(fields) => Value::from_pairs(fields.iter().map(|(name, v)| (name.as_str(), seen(v)))),
    }
}

impl ChatTemplate {
    /// Compiles `source`; `special_tokens` are names such as `bos_token` with their text, `place`
    /// names the template in errors.
    pub fn new(source: &str, special_tokens: Vec<(String, String)>, place: String) -> Result<Self> {
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        let syntax = syntax.map_err(|e| Error::Internal(e.to_string()))?;
        let source = prepared(source);
        let names = Names::of(&source, syntax.clone());
        let mut template = BoundedTemplate::new(source, syntax, UndefinedBehavior::default(), place)?;
        template.environment().add_function("strftime_now", strftime);
        Ok(Self { template, special_tokens, names, shows_all: OnceCell::new(), reads_parts: OnceCell::new() })
    }

    /// The text of a conversation; with `add_generation_prompt` it waits for the assistant's next turn.
    ///
    /// The same conversation gives the same text on any day: `strftime_now` knows only Friday, 26
    /// July 2024, the date that Llama 3's templates fall back to where there is no clock. A
    /// conversation that is rendered for training tomorrow must not differ from the one that was
    /// sampled.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_with(messages, &ChatOptions::default(), add_generation_prompt)
    }

    /// The same with tools and variables. Content in parts is a list for templates that go through
    /// one, and for others the text that the parts make.
    pub fn render_with(
        &self,
        messages: &[Message],
        options: &ChatOptions,
        add_generation_prompt: bool,
    ) -> Result<String> {
        let joined = |message: &Message| message.has_parts() && !self.reads_parts(&message.role);
        let messages: Vec<Vec<(&str, Json)>> = messages.iter().map(|m| m.fields(joined(m))).collect();
        self.render_fields(&messages, options, add_generation_prompt)
    }

    fn render_fields(
        &self,
        messages: &[Vec<(&str, Json)>],
        options: &ChatOptions,
        add_generation_prompt: bool,
    ) -> Result<String> {
        let size = |(name, value): &(&str, Json)| match (*name, value) {
            ("role" | "content", Json::String(text)) => text.len(),
            (name, value) => name.len() + value.to_string().len(),
        };
        let bytes = messages.iter().flatten().map(size).sum::<usize>() + options.bytes();
        let message = |fields: &Vec<(&str, Json)>| {
            Value::from_pairs(fields.iter().map(|(name, value)| (*name, seen(value))))
        };
        let messages: Value = messages.iter().map(message).collect();
        let tools = options.tools.as_ref().map_or(Value::from(()), |tools| tools.iter().map(seen).collect());
        let mut variables = vec![
            ("messages", messages),
            ("tools", tools),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
        ];
        variables.extend(
            self.special_tokens.iter().map(|(name, text)| (name.as_str(), Value::from(text.as_str()))),
        );
        variables.extend(options.kwargs.iter().map(|(name, value)| (name.as_str(), seen(value))));
        self.template.render(variables, bytes)
    }

    /// Whether the template may read a message's field of this name: it names it, or shows messages whole.
    pub fn reads_field(&self, name: &str) -> bool {
        self.names.fields.contains(name) || *self.shows_all.get_or_init(|| self.tries_showing_all())
    }

    /// Whether the template names a variable.
    pub fn reads_variable(&self, name: &str) -> bool {
        self.names.variables.contains(name)
    }

    /// Gives it a message with a field that no template names.
    fn tries_showing_all(&self) -> bool {
        const FIELD: &str = "field_of_no_template";
        let user = vec![("role", json!("user")), ("content", json!("a")), (FIELD, json!("shown"))];
        let assistant = vec![("role", json!("assistant")), ("content", json!("b")), (FIELD, json!("shown"))];
        let text = self.render_fields(&[user, assistant], &ChatOptions::default(), false);
        text.is_ok_and(|text| text.contains(FIELD) || text.contains("shown"))
    }

    /// Whether it goes through the parts of content, rather than show them as they are or fail.
    fn reads_parts(&self, role: &str) -> bool {
        let Some(at) = ROLES.iter().position(|known| *known == role) else { return false };
        self.reads_parts.get_or_init(|| ROLES.map(|role| self.tries_parts(role)))[at]
    }

    fn tries_parts(&self, role: &str) -> bool {
        let turn = |role: &'static str| vec![("role", json!(role)), ("content", json!("a"))];
        let tried = vec![("role", json!(role)), ("content", json!([{"type": "text", "text": "tried"}]))];
        let messages = match role {
            "system" => vec![tried, turn("user")],
            "assistant" => vec![turn("user"), tried],
            _ => vec![tried],
        };
        let text = self.render_fields(&messages, &ChatOptions::default(), false);
        // A list that is shown as it is has its keys in quotes.
        text.is_ok_and(|t| t.contains("tried") && !t.contains("'text'") && !t.contains("\"text\""))
    }

    /// Names the template in errors.
    pub fn place(&self) -> &str {
        self.template.place()
    }
}

/// A template's source as minijinja takes it. Jinja reads every kind of line end as a line feed,
/// and `{% generation %}` only marks the assistant's text for transformers: a block that has its
/// own variables, as that one has, keeps its whitespace control.
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
    fn tools_and_variables_are_what_transformers_gives() {
        let t = template(
            "{{ tools | tojson }}{{ tools[0]['a']['b'] }}{{ date }}{{ n + 1 }}{% if not thinks %}-{% endif %}{{ documents }}",
        );
        let json = json!({"tools": [{"a": {"b": 1.5, "c": null, "d": true}}],
                          "kwargs": {"date": "today", "n": 7, "thinks": false, "documents": ["d"]}});
        let options = ChatOptions {
            tools: json["tools"].as_array().cloned(),
            kwargs: json["kwargs"].as_object().unwrap().clone(),
        };
        let text = t.render_with(&talk(), &options, false).unwrap();
        assert_eq!(text, r#"[{"a": {"b": 1.5, "c": null, "d": true}}]1.5today8-['d']"#);
        let t = template("{{ tools is none }}{{ thinks is defined }}{{ documents is none }}");
        assert_eq!(t.render(&talk(), false).unwrap(), "TrueFalseTrue");
        assert_eq!(options.check(), Ok(()));
        for name in
            ["messages", "tools", "add_generation_prompt", "eos_token", " input bytes", "a b", "", "1"]
        {
            let kwargs = [(name.to_string(), json!(1))].into_iter().collect();
            let e = ChatOptions { tools: None, kwargs }.check().unwrap_err();
            assert_eq!(e.0, name);
        }
    }

    #[test]
    fn a_template_says_what_it_reads() {
        let t = template(
            "{# thinking #}Say name: {% for m in messages %}{{ m.role + m['content'] }}{{ m.get('reasoning') }}\
             {% if enable_thinking %}thoughts{% endif %}{{ m.call.tools }}{% endfor %}",
        );
        for (name, is_field, is_variable) in [
            ("content", true, false),
            ("reasoning", true, false),
            ("call", true, false),
            ("tools", true, false),
            ("enable_thinking", true, true),
            ("thinking", false, false),
            ("name", false, false),
            ("thoughts", false, false),
        ] {
            assert_eq!((t.reads_field(name), t.reads_variable(name)), (is_field, is_variable), "{name}");
        }
        assert!(template("{{ messages | tojson }}").reads_field("name"), "messages are shown whole");
        assert!(template("{% for m in messages %}{{ m }}{% endfor %}").reads_field("name"));
    }

    #[test]
    fn parts_are_a_list_for_templates_that_read_one() {
        let parts = json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]});
        let of = |source: &str, role: &str| {
            let mut message = parts.clone();
            message["role"] = role.into();
            template(source).render(&[Message::read(&message).unwrap()], false).unwrap()
        };
        assert_eq!(of("{{ messages[0].content }}", "user"), "ab");
        assert_eq!(of("{{ 'x' + messages[0].content }}", "user"), "xab");
        let by_part = "{% for m in messages %}{% for p in m.content %}{{ p.text }},{% endfor %}{% endfor %}";
        assert_eq!(of(by_part, "user"), "a,b,");
        let of_users = "{% for m in messages %}{% if m.role == 'user' and m.content is not string %}\
                        {% for p in m.content %}[{{ p['text'] }}]{% endfor %}{% else %}{{ m.content }}{% endif %}{% endfor %}";
        assert_eq!(of(of_users, "user"), "[a][b]");
        assert_eq!(of(of_users, "assistant"), "ab");
        assert_eq!(of(of_users, "tool"), "ab");
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
