//! Templates from strangers: whatever is in one, rendering it ends, and takes no more memory than
//! its input allows (see `meter.rs`).

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, machinery};

use super::meter::{self, INPUT_BYTES, Program};
use super::{filters, python};
use crate::error::{Error, Result};

/// A compiled template with Jinja's filters and Python's methods. It includes and extends no other.
pub struct BoundedTemplate {
    environment: Environment<'static>,
    program: Program,
    source_bytes: usize,
    place: String,
}

impl BoundedTemplate {
    /// Compiles `source`; `place` names the template in errors. The source stays in memory as long as the process.
    pub fn new(
        source: String,
        syntax: SyntaxConfig,
        undefined: UndefinedBehavior,
        place: String,
    ) -> Result<Self> {
        let mut environment = Environment::empty();
        environment.set_debug(false);
        environment.set_undefined_behavior(undefined);
        meter::install(&mut environment);
        python::install(&mut environment);
        filters::install(&mut environment);
        // A program borrows its source. Templates are few and used to the end.
        let source: &'static str = Box::leak(source.into_boxed_str());
        let program = Program::new("template", source, syntax).map_err(|e| explain(&place, &e))?;
        Ok(Self { environment, program, source_bytes: source.len(), place })
    }

    /// The environment it runs in, to be given more functions.
    pub fn environment(&mut self) -> &mut Environment<'static> {
        &mut self.environment
    }

    /// Its text with these variables, of `bytes` bytes together: what it may build and read is a multiple of that.
    pub fn render(&self, mut variables: Vec<(&str, Value)>, bytes: usize) -> Result<String> {
        variables.push((INPUT_BYTES, Value::from(bytes + self.source_bytes)));
        let mut text = String::new();
        machinery::eval(
            &self.environment,
            &self.program.instructions,
            Value::from_pairs(variables),
            &BTreeMap::new(),
            &mut machinery::make_string_output(&mut text),
            AutoEscape::None,
        )
        .map_err(|e| explain(&self.place, &e))?;
        Ok(text)
    }

    /// Names the template in errors.
    pub fn place(&self) -> &str {
        &self.place
    }
}

/// One line with the place and the line in it.
fn explain(place: &str, e: &minijinja::Error) -> Error {
    let line = e.line().map_or(String::new(), |line| format!("line {line}: "));
    let problem = match (e.kind(), e.detail()) {
        (ErrorKind::OutOfFuel, None) => {
            format!("found a template that does not end, expected at most {} instructions", meter::FUEL)
        }
        (ErrorKind::OutOfFuel, Some(detail)) => detail.to_string(),
        (kind, None) => kind.to_string(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
    };
    Error::input(place, line + &problem.split_whitespace().collect::<Vec<_>>().join(" "))
}
