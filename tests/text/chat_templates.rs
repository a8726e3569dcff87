//! Chat templates of the families, rendered as transformers renders them, byte for byte (tests/data/chat_templates).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use colloquy::text::{ChatTemplate, Message};
use serde::Deserialize;

#[derive(Deserialize)]
struct Table {
    special_tokens: BTreeMap<String, BTreeMap<String, String>>,
    conversations: BTreeMap<String, Vec<Message>>,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    template: String,
    conversation: String,
    add_generation_prompt: bool,
    /// What transformers renders.
    text: Option<String>,
    /// What the template said through `raise_exception`.
    raises: Option<String>,
    /// Any other error of transformers; its words are Python's.
    fails: Option<String>,
}

fn own() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/chat_templates")
}

/// `COLLOQUY_CHAT_TEMPLATES` names another folder that tools/chat_templates.py made, to try templates that are not kept here.
fn folder() -> PathBuf {
    std::env::var_os("COLLOQUY_CHAT_TEMPLATES").map_or_else(own, PathBuf::from)
}

#[test]
fn every_row_is_as_transformers_renders_it() {
    let table = std::fs::read_to_string(folder().join("expected.json")).unwrap();
    let table: Table = serde_json::from_str(&table).unwrap();
    let mut wrong = Vec::new();
    let mut seen = BTreeMap::new();
    let mut templates = BTreeMap::new();
    for row in &table.rows {
        let template = templates.entry(&row.template).or_insert_with(|| {
            let file = format!("{}.jinja", row.template);
            let source = std::fs::read_to_string(folder().join(&file)).unwrap();
            let special = table.special_tokens[&row.template].clone().into_iter().collect();
            ChatTemplate::new(&source, special, file).unwrap_or_else(|e| panic!("{e}"))
        });
        let rendered = template.render(&table.conversations[&row.conversation], row.add_generation_prompt);
        let kind = match (&row.text, &row.raises, &row.fails) {
            (Some(_), None, None) => "text",
            (None, Some(_), None) => "raises",
            (None, None, Some(_)) => "fails",
            _ => panic!("{} of {}: no outcome, or several", row.template, row.conversation),
        };
        *seen.entry(kind).or_insert(0) += 1;
        let right = match (&rendered, &row.text, &row.raises) {
            (Ok(ours), Some(theirs), _) => ours == theirs,
            (Err(e), None, Some(message)) => e.to_string().contains(message.as_str()),
            (Err(_), None, None) => true,
            _ => false,
        };
        if !right {
            let ours = rendered.map_or_else(|e| format!("error {e}"), |text| format!("{text:?}"));
            let theirs = [&row.text, &row.raises, &row.fails].into_iter().flatten().next().unwrap();
            wrong.push(format!(
                "{}, {}, asking {}\n  ours   {ours}\n  theirs {theirs:?}",
                row.template, row.conversation, row.add_generation_prompt
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows differ:\n{}", wrong.len(), table.rows.len(), wrong.join("\n"));
    assert!(seen["text"] > 0 && seen.contains_key("raises"), "{seen:?}");
}

/// The error of a template; a talk of two turns, the first of which asks `1 < 2?`.
fn error(source: &str) -> String {
    let talk = [Message::user("1 < 2?"), Message::assistant("yes")];
    let template = ChatTemplate::new(source, vec![], "DIR/chat_template.jinja".into());
    let text = template.and_then(|template| template.render(&talk, false));
    text.map_or_else(|e| e.to_string(), |text| panic!("{source:.80} renders {text:.80}"))
}

#[test]
fn what_fails_names_file_and_line() {
    for (source, line, problem) in [
        ("a\n{% for %}", 2, "syntax error: unexpected end of block"),
        ("a\n\n{{ messages[0].content.foo() }}", 3, "string has no method named foo"),
        ("{{ 'a' | foo }}", 1, "filter foo is unknown"),
        ("\n{{ 1 is foo }}", 2, "test foo is unknown"),
        ("\n{{ foo(1) }}", 2, "foo is unknown"),
        ("\n{{ messages[7]['role'] }}", 2, "undefined value"),
        ("\n{{ 'a' + 1 }}", 2, "cannot apply + to string and number"),
        ("\n{{ 'a' + foo }}", 2, "cannot apply + to string and undefined"),
        ("\n{{ 1 % 0 }}", 2, "division by zero"),
        ("\n{% for x in none %}{% endfor %}", 2, "none is not iterable"),
        ("\n{% for x in foo.bar %}{% endfor %}", 2, "undefined value"),
        ("\n{% include 'chat_template' %}", 2, "template not found"),
        ("\n{% extends 'chat_template' %}", 2, "template not found"),
        ("\n{% import 'chat_template' as c %}", 2, "template not found"),
        ("\n{{ strftime_now('%Q') }}", 2, "found \"%Q\", expected a format of dates and times"),
        ("\n{{ raise_exception('roles\\nmust alternate') }}", 2, "roles must alternate"),
        (
            "\n{% if messages[1].role == 'assistant' %}\n{{ raise_exception(messages[0]) }}{% endif %}",
            3,
            "{'role': 'user', 'content': '1 < 2?'}",
        ),
    ] {
        let e = error(source);
        assert!(e.starts_with(&format!("DIR/chat_template.jinja: line {line}: ")), "{source}: {e}");
        assert!(e.contains(problem) && !e.contains('\n'), "{source}: {e}");
    }
    for (source, problem) in [
        (
            "\n{% block a %}{{ self.a() }}{% endblock %}",
            "found a block, expected a template that extends no other, at line 2",
        ),
        (
            "\n{% autoescape true %}a{% endautoescape %}",
            "found autoescape, expected a template of plain text, at line 2",
        ),
    ] {
        assert!(error(source).ends_with(problem), "{source}: {}", error(source));
    }
}

/// Every one of these would run for hours or fill any memory. They end within the bounds of src/text/meter.rs, whatever they use.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of templates")]
fn no_template_hangs_or_eats_the_memory() {
    let grow = |step: &str| {
        format!(
            "{{% set ns = namespace(s='xx', l=[1]) %}}{{% for i in range(64) %}}{step}{{% endfor %}}{{{{ ns }}}}"
        )
    };
    let many = |step: &str| {
        format!("{{% set big = 'x' * 400000 %}}{{% for i in range(100000) %}}{step}{{% endfor %}}")
    };
    let nested = |step: &str| {
        format!(
            "{{% for i in range(100000) %}}{{% for j in range(100000) %}}{step}{{% endfor %}}{{% endfor %}}"
        )
    };
    let chain =
        |first: &str, step: &str, last: &str| format!("{{{{ {first}{}{last} }}}}", step.repeat(100_000));
    let mut wrong = Vec::new();
    for (expected, sources) in [
        (
            "found a template that does not end, expected at most 2000000 instructions",
            vec![
                nested(""),
                nested("{% if j %}{% continue %}{% endif %}"),
                "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}".into(),
            ],
        ),
        (
            "found a template that builds more text than a conversation can need",
            vec![
                "{% set n = 10**9 %}{{ 'x' * n }}".into(),
                "{% set n = 10**30 %}{{ n * 'x' }}".into(),
                "{% set n = 10**9 %}{% for x in [1] * n %}{% endfor %}".into(),
                grow("{% set ns.s = ns.s ~ ns.s %}"),
                grow("{% set ns.s = ns.s + ns.s %}"),
                grow("{% set ns.l = ns.l + ns.l %}"),
                grow("{% set ns.s = ns.s.replace('x', ns.s) %}"),
                grow("{% set ns.s = ns.s | replace('', ns.s) %}"),
                grow("{% set ns.s = [ns.s, ns.s] | join(ns.s) %}"),
                grow("{% set ns.s = ns.s.join([ns.s, ns.s]) %}"),
                grow("{% set ns.s = '%s%s' % (ns.s, ns.s) %}"),
                grow("{% set ns.s = '{0}{0}'.format(ns.s) %}"),
                grow("{% set ns.s = [ns.s, ns.s] | tojson %}"),
                grow("{% set ns.s = [ns.s, ns.s] | string %}"),
                grow("{% set t %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = t %}"),
                grow("{% set ns.s = ns.s ~ ns.s | indent(1000) %}"),
                format!("{{% macro m() %}}{}{{% endmacro %}}{}", "x".repeat(10_000), nested("{{ m() }}")),
                nested(&"x".repeat(10_000)),
                nested("{{ 'x' * 1000 }}"),
                "{% set s = '\n' * 400000 %}{{ s | indent(1000, true, true) }}".into(),
                "{% set n = 400000 %}{{ ('x' * n) | list }}{{ ('x' * n) | list }}".into(),
                many("{{ big[1:] | length }}"),
                many("{{ big.strip() | length }}"),
                many("{{ big | upper | length }}"),
                many("{{ big.split(' ') | length }}"),
                many("{{ ([1] * 1000 + [2])[::-1] | length }}"),
                many("{{ [big] | tojson(indent=1000) | length }}"),
            ],
        ),
        (
            "found a template that does not end soon enough",
            vec![
                many("{{ 'y' in big }}"),
                many("{{ big == big }}"),
                many("{{ big <= big <= big }}"),
                many("{{ big is eq big }}"),
                many("{{ big[-1] }}"),
                many("{{ big.find('y') }}"),
                many("{{ big | length }}"),
                "{% set n = 100000 %}{% set big = 'x' * n %}{{ (['y'] * n) | select('in', big) | list }}".into(),
                "{% set n = 100000 %}{% set l = ['x' * n] * n %}{{ l }}".into(),
                grow("{% set ns.l = [ns.l, ns.l] %}"),
                nested("{% set x = [1] | batch(100000, 'x') | list %}"),
            ],
        ),
        (
            "found a template that nests lists or dicts deeper than 64",
            vec![
                "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}".into(),
                "{% set ns = namespace(l={}) %}{% for i in range(100000) %}{% set ns.l = {'a': ns.l} %}{% endfor %}".into(),
                "{% set ns = namespace(l={}) %}{% for i in range(100000) %}{% set ns.l = dict(a=ns.l) %}{% endfor %}".into(),
                "{% set ns = namespace(l=()) %}{% for i in range(100000) %}{% set ns.l = (ns.l,) %}{% endfor %}".into(),
                "{% set ns = namespace(l=1) %}{% for i in range(100000) %}{% set n = namespace() %}{% set n.p = ns.l %}{% set ns.l = n %}{% endfor %}".into(),
                "{% set ns = namespace(l=[1]) %}{% for i in range(100000) %}{% set ns.l = ns.l | batch(1) | list %}{% endfor %}".into(),
                "{% set ns = namespace() %}{% set ns.ns = ns %}{{ ns }}".into(),
                "{% set l = 1 %}".to_string() + &"{% set l = [l] %}".repeat(100_000),
                "{% set l = 1 %}".to_string() + &"{% set l = (l,) %}".repeat(100_000),
                "{% set l = 1 %}".to_string() + &"{% set l = {'a': l} %}".repeat(100_000),
                "{% set l = 1 %}".to_string() + &"{% set l = dict(a=l) %}".repeat(100_000),
                "{% set l = [1] %}".to_string() + &"{% set l = l | batch(1) | list %}".repeat(100_000),
            ],
        ),
        (
            "recursion limit",
            vec![
                "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}".into(),
                "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}".into(),
                "{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}".into(),
                "{% if 1 %}".repeat(100_000),
            ],
        ),
        (
            "found an expression of more than 400 tokens, at line 1",
            vec![
                chain("", "(", "1"),
                chain("", "[", "1"),
                chain("", "not ", "1"),
                chain("", "-", "1"),
                chain("1", " + 1", ""),
                chain("'x'", " ~ 'x'", ""),
                chain("1", " and 1", ""),
                chain("x", ".x", ""),
                chain("x", "()", ""),
                chain("x", "|int", ""),
                chain("1", " if 1 else 1", ""),
            ],
        ),
        (
            "found products of constants that may be larger than 16 MiB, at line 1",
            vec![
                "{{ 'x' * 10**9 }}".into(),
                "{{ 'x' * 99999999 }}".into(),
                "{{ 9999 * 'x' * 9999 }}".into(),
                "{% for x in [1] * 99999999 %}{% endfor %}".into(),
                "{{ ((1, 2) * 99999999) | length }}".into(),
                "{{ 'x' * 340282366920938463463374607431768211455 }}".into(),
                "{% set x = 'x' * 100000 %}".repeat(1000),
            ],
        ),
        ("found more than 200 elif, at line 1", vec!["{% if 0 %}".to_string() + &"{% elif 0 %}".repeat(100_000) + "{% endif %}"]),
        ("range has too many elements", vec!["{{ range(10**9) | list }}".into()]),
        ("found a count above 100000", vec!["{{ [1] | batch(10**9, 'x') | list }}".into(), "{{ [1] | slice(10**9) | list }}".into()]),
        ("found an indent that is neither a text nor a number up to 1000", vec!["{{ 'x' | indent(10**9) }}".into(), "{{ [1] | tojson(indent=10**9) }}".into()]),
        ("width of more than four digits", vec!["{{ '%1000000000d' % 1 }}".into(), "{{ '{:>1000000000}'.format('x') }}".into()]),
        ("unable to calculate 10 ** 1000000000", vec!["{{ 10 ** 1000000000 }}".into()]),
    ] {
        for source in sources {
            let e = error(&source);
            if !e.contains(expected) {
                wrong.push(format!("{source:.120}\n{e:.300}\nexpected {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_long_conversation_is_within_bounds() {
    // A million bytes in four hundred turns, through the template that looks back at the conversation most.
    let source = std::fs::read_to_string(own().join("qwen3.jinja")).unwrap();
    let template = ChatTemplate::new(&source, vec![], "qwen3.jinja".into()).unwrap();
    let word = "word ".repeat(500);
    let answer = format!("<think>\n{word}\n</think>\n\n{word}");
    let talk: Vec<Message> = (0..400)
        .map(|i| if i % 2 == 0 { Message::user(&word) } else { Message::assistant(&answer) })
        .collect();
    let text = template.render(&talk, true).unwrap();
    assert!(text.len() > 1_000_000 && text.ends_with("<|im_start|>assistant\n"));
}

#[test]
fn line_ends_of_every_kind_are_line_feeds() {
    let template =
        ChatTemplate::new("a\r\nb\rc{{ '\r\n' }}{{ messages[0].content }}", vec![], "t".into()).unwrap();
    assert_eq!(template.render(&[Message::user("x\r\ny")], false).unwrap(), "a\nb\nc\nx\r\ny");
}
