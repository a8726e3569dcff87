//! Which modules an adapter_config.json names, with what rank and scale: held to a table that PEFT made (tools/peft_targets.py), of every
//! form that target_modules, exclude_modules, layers_to_transform, layers_pattern, rank_pattern and alpha_pattern can take.

use std::collections::BTreeMap;

use colloquy::adapter::{NewAdapter, PeftConfig};
use colloquy::backend::{AdapterLayout, GroupLayout, PartLayout, PartSpec};
use serde_json::{Value, json};

fn table() -> Value {
    serde_json::from_str(include_str!("../data/peft_targets.json")).unwrap()
}

/// Every linear of a model beneath its head, each a group of its own: targets know nothing of groups.
fn layout(modules: &Value) -> AdapterLayout {
    let group = |m: &Value| {
        let size = |i: usize| m[i].as_u64().unwrap() as usize;
        let part = PartLayout { module: m[0].as_str().unwrap().into(), start: 0, outputs: size(2) };
        GroupLayout { inputs: size(1), outputs: size(2), parts: vec![part] }
    };
    AdapterLayout { groups: modules.as_array().unwrap().iter().map(group).collect() }
}

type Adapted = BTreeMap<String, (usize, f32)>;

fn adapted(config: &Value, layout: &AdapterLayout) -> Result<Adapted, String> {
    let spec = PeftConfig::parse(config.to_string().as_bytes(), "adapter_config.json")
        .and_then(|c| c.spec(layout))
        .map_err(|e| e.to_string())?;
    let parts = layout.parts().zip(&spec.parts);
    Ok(parts
        .filter_map(|((_, _, _, part), spec)| {
            spec.map(|PartSpec { rank, scale }| (part.module.clone(), (rank, scale)))
        })
        .collect())
}

#[test]
fn modules_ranks_and_scales_are_those_of_peft() {
    let table = table();
    let (mut same, mut refused) = (0, 0);
    for case in table["cases"].as_array().unwrap() {
        let name = format!("{} ({}): {}", case["name"], case["model"], case["config"]);
        let layout = layout(&table["models"][case["model"].as_str().unwrap()]);
        let found = adapted(&case["config"], &layout);
        let Some(expected) = case["expected"].as_object() else {
            let e = found.expect_err(&name);
            assert!(e.contains("adapter_config.json, field ") && e.contains("expected"), "{name}: {e}");
            refused += 1;
            continue;
        };
        let expected: Adapted = expected
            .iter()
            .map(|(m, v)| (m.clone(), (v[0].as_u64().unwrap() as usize, v[1].as_f64().unwrap() as f32)))
            .collect();
        let known = |m: &String| layout.parts().any(|(_, _, _, p)| p.module == *m);
        if let Some(module) = expected.keys().find(|m| !known(m)) {
            // PEFT adapts embeddings and heads; here they are refused by name.
            let e = found.expect_err(&name);
            assert!(e.contains("field target_modules: found") && e.contains(module.as_str()), "{name}: {e}");
            refused += 1;
            continue;
        }
        assert_eq!(found.as_ref(), Ok(&expected), "{name}");
        same += 1;
    }
    assert!(same >= 50 && refused >= 20, "{same} cases alike, {refused} refused");
}

fn of(change: Value) -> Result<Adapted, String> {
    let table = table();
    let mut config = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]});
    for (key, value) in change.as_object().unwrap() {
        config[key] = value.clone();
    }
    adapted(&config, &layout(&table["models"]["llama"]))
}

#[test]
fn what_cannot_be_read_names_field_found_and_expected() {
    for (change, field, parts) in [
        (json!({"target_modules": "(a|b)((x|y)+)+\\1z"}), "target_modules", &["the pattern"][..]),
        (json!({"target_modules": ".*(q_proj"}), "target_modules", &[".*(q_proj", "no regular expression"]),
        (
            json!({"target_modules": "q_proj"}),
            "target_modules",
            &["the pattern \"q_proj\"", "q_proj, k_proj"],
        ),
        (json!({"exclude_modules": "*"}), "exclude_modules", &["\"*\"", "no regular expression"]),
        (json!({"exclude_modules": 3}), "exclude_modules", &["found 3", "list of module names"]),
        (json!({"exclude_modules": ["q_proj", 3]}), "exclude_modules", &["list of module names"]),
        (json!({"exclude_modules": "all-linear"}), "exclude_modules", &["found \"all-linear\""]),
        (json!({"exclude_modules": ["q_proj"]}), "target_modules", &["\"q_proj\"", "leave at least one"]),
        (json!({"layers_to_transform": "1"}), "layers_to_transform", &["found \"1\""]),
        (json!({"layers_to_transform": [1.5]}), "layers_to_transform", &["found [1.5]"]),
        (json!({"layers_to_transform": true}), "layers_to_transform", &["found true"]),
        (json!({"layers_to_transform": [99]}), "target_modules", &["leave at least one"]),
        (json!({"layers_to_transform": 1, "layers_pattern": 7}), "layers_pattern", &["found 7"]),
        (json!({"layers_to_transform": 1, "layers_pattern": ["("]}), "layers_pattern", &["no regular"]),
        (json!({"layers_pattern": "layers"}), "layers_pattern", &["layers_to_transform is null"]),
        (
            json!({"layers_to_transform": 1, "target_modules": "all-linear"}),
            "layers_to_transform",
            &["found 1", "\"all-linear\", which is no list"],
        ),
        (json!({"rank_pattern": {"q_proj": 129}}), "rank_pattern", &["found 129"]),
        (json!({"rank_pattern": {"(": 2}}), "rank_pattern.(", &["no regular expression"]),
        (json!({"target_modules": ["lm_head"]}), "target_modules", &["\"lm_head\"", "embeddings"]),
        (json!({"target_modules": ".*"}), "target_modules", &["the pattern \".*\"", "embed_tokens"]),
    ] {
        let e = of(change.clone()).expect_err(&change.to_string());
        assert!(e.contains(&format!("adapter_config.json, field {field}: ")), "{change}: {e}");
        assert!(e.contains("expected"), "{change}: {e}");
        for part in parts {
            assert!(e.contains(part), "{change}: {e}");
        }
    }
}

#[test]
fn a_pattern_that_would_never_end_is_an_error() {
    // Exponential in the length of the name wherever the back-reference keeps the linear engine away.
    let pattern = r"(.*)*(.*)*(.*)*(.*)*(.*)*\1!";
    for change in [
        json!({"target_modules": pattern}),
        json!({"exclude_modules": pattern}),
        json!({"rank_pattern": {(pattern.replace(r"\1", r"\3")): 3}}),
    ] {
        let e = of(change.clone()).expect_err(&change.to_string());
        assert!(e.contains("does not come to an end on "), "{change}: {e}");
    }
}

#[test]
fn new_adapters_take_the_same_names_and_refuse_what_is_mistyped() {
    let table = table();
    let layout = layout(&table["models"]["phi3"]);
    let new = |targets: &[&str]| {
        let targets = targets.iter().map(|t| t.to_string()).collect();
        NewAdapter { targets, ..NewAdapter::default() }.spec(&layout)
    };
    let count = |targets: &[&str]| new(targets).unwrap().parts.iter().flatten().count();
    assert_eq!(
        (count(&["all-linear"]), count(&["qkv_proj"]), count(&["mlp.down_proj", "o_proj"])),
        (48, 12, 24)
    );
    for (bad, found) in [(&["qkv_proj", "q_proj"][..], "\"q_proj\""), (&["lm_head"], "\"lm_head\"")] {
        let e = new(bad).unwrap_err().to_string();
        assert!(e.contains(found) && e.contains("o_proj, qkv_proj, gate_up_proj, down_proj"), "{e}");
    }
}
