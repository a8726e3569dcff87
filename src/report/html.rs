//! One page, complete in itself: style, script and data stand in it, and nothing is fetched.
//!
//! Questions, answers and names are data that somebody else wrote. They enter as JSON whose `<` is escaped, so that no
//! text can end the script element it stands in, and the script puts them on the page as text, never as markup.

use serde_json::Value;

use super::{Results, page, plot, tables};
use crate::error::Result;

const TEMPLATE: &str = include_str!("../../assets/report/page.html");
const STYLE: &str = include_str!("../../assets/report/page.css");
const SCRIPTS: [&str; 4] = [
    include_str!("../../assets/report/dom.js"),
    include_str!("../../assets/report/chart.js"),
    include_str!("../../assets/report/debates.js"),
    include_str!("../../assets/report/page.js"),
];

/// The page of one run, or of several.
pub fn page(results: &[Results]) -> Result<String> {
    let data = page::data(results)?;
    let names: Vec<&str> = results.iter().map(|r| r.run.name.as_str()).collect();
    // For readers without scripts: what a terminal shows.
    let plain: String =
        results.iter().map(|r| format!("<pre>{}</pre>", escape(&tables::summary(r)))).collect();
    let scripts = SCRIPTS.concat();
    let parts = [
        ("title", escape(&names.join(", "))),
        ("style", STYLE.to_string()),
        ("figures", results.iter().map(plot::figure).collect()),
        ("plain", plain),
        ("data", script_json(&data)),
        ("script", scripts),
    ];
    Ok(fill(TEMPLATE, &parts))
}

/// Puts each part where `{{name}}` stands. What is put in is not looked at again.
fn fill(template: &str, parts: &[(&str, String)]) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, tail) = after.split_once("}}").unwrap_or((after, ""));
        out.push_str(before);
        out.extend(parts.iter().find(|(n, _)| *n == name).map(|(_, text)| text.as_str()));
        rest = tail;
    }
    out + rest
}

/// JSON that can stand in a script element: `<` as `\u003c`, so neither `</script` nor `<!--` can be in it. `<` occurs
/// in strings only.
pub fn script_json(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// Text as markup shows it.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn no_text_can_end_the_script_it_stands_in() {
        let text = "</script><img onerror=alert(1)><!-- & \u{2028}";
        let written = script_json(&json!({ "text": text }));
        assert!(!written.contains(['<', '>', '&']), "{written}");
        assert_eq!(serde_json::from_str::<Value>(&written).unwrap()["text"], text);
        assert_eq!(escape("<a b=\"c\">&"), "&lt;a b=&quot;c&quot;&gt;&amp;");
    }

    #[test]
    fn parts_are_put_in_once() {
        let parts = [("a", "{{b}}".to_string()), ("b", "x".to_string())];
        assert_eq!(fill("<{{a}}|{{b}}>", &parts), "<{{b}}|x>");
    }
}
