//! A PEFT folder.

use std::path::Path;

use serde_json::json;

use super::{Said, facts, plural};
use crate::adapter::describe;
use crate::error::Result;
use crate::experiment::{bytes, count};

/// What it is.
pub fn say(folder: &Path) -> Result<Said> {
    let d = describe(folder)?;
    let modules: usize = d.shapes.iter().map(|(_, n)| n).sum();
    let shapes: Vec<_> = d
        .shapes
        .iter()
        .map(|(s, n)| json!({"rank": s.rank, "alpha": s.alpha, "scale": s.scale, "modules": n}))
        .collect();
    let json = json!({
        "kind": "adapter", "folder": folder.display().to_string(),
        "base": d.base.as_ref().map(|b| &b.name), "base_revision": d.base.as_ref().and_then(|b| b.revision.as_ref()),
        "modules": modules, "shapes": shapes, "rslora": d.rslora, "targets": d.targets, "dropout": d.dropout,
        "parameters": d.parameters, "dtypes": d.types, "bytes": d.bytes, "copies": d.copies,
        "optimizer": d.optimizer.map(|(steps, bytes)| json!({"steps": steps, "bytes": bytes})),
    });

    let base = match &d.base {
        None => "not named".to_string(),
        Some(base) => match &base.revision {
            None => base.name.clone(),
            Some(revision) => format!("{} @ {revision}", base.name),
        },
    };
    let rule = if d.rslora { "alpha / sqrt(rank)" } else { "alpha / rank" };
    let of_modules =
        |n: usize| if d.shapes.len() > 1 { format!(" ({})", plural(n, "module")) } else { String::new() };
    let shapes: Vec<String> = d
        .shapes
        .iter()
        .map(|(s, n)| format!("{}, alpha {}, scale {}{}", s.rank, s.alpha, s.scale, of_modules(*n)))
        .collect();
    let mut lines = vec![
        ("adapter", folder.display().to_string()),
        ("base", base),
        ("rank", format!("{}; scale = {rule}", shapes.join("; "))),
        ("targets", format!("{} ({})", d.targets.join(", "), plural(modules, "module"))),
        (
            "parameters",
            format!("{}, {}, {}", count(d.parameters), d.types.join(" and "), bytes(d.bytes as usize)),
        ),
    ];
    if d.dropout > 0.0 {
        lines.push(("dropout", format!("{}, in training", d.dropout)));
    }
    if !d.copies.is_empty() {
        let copies = format!("of {}, taken where they are the base's own", d.copies.join(" and "));
        lines.push(("copies", copies));
    }
    let optimizer = match d.optimizer {
        Some((steps, size)) => format!("state after {steps} steps, {}", bytes(size as usize)),
        None => "no state; training it further starts with fresh moments".into(),
    };
    lines.push(("optimizer", optimizer));
    Ok(Said { json, text: facts(&lines) })
}
