//! Bounds on what a chat template may do: templates come with models from anywhere, and one must
//! neither hang the program nor eat its memory.
//!
//! minijinja counts instructions. One instruction can still double a string, or search one that is
//! large, so the program is compiled here and rewritten before it runs: what could grow a value or
//! read a large one asks a [`Meter`] first. The operators that build values (`+`, `~`, `*`,
//! `[a:b]`, `[i]`) become calls of the functions of `python.rs`; raw text, comparisons and
//! containers get a question put before or after them.

use minijinja::machinery::{CodeGenerator, Instruction, Instructions, Token, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};

/// Instructions a template may execute, about a fifth of a second of them; a long conversation takes some ten thousand.
pub const FUEL: u64 = 2_000_000;
/// Bytes that a template may build, in all: so many and [`MADE_PER_BYTE`] for each byte of the
/// conversation and the template.
const MADE: u64 = 16 << 20;
const MADE_PER_BYTE: u64 = 64;
/// Bytes that a template may read with operations whose cost grows with their operands.
const READ: u64 = 64 << 20;
const READ_PER_BYTE: u64 = 4096;
/// What an element of a list or dict counts as.
pub const ELEMENT: u64 = 24;
/// Tokens between two braces, and `elif`s in a template: the parser recurses over both. Published
/// templates have up to 50 and 25.
const TAG_TOKENS: usize = 400;
const BRANCHES: usize = 200;
/// How deep lists and dicts may be nested: they are shown, compared and dropped by recursion.
const DEPTH: usize = 64;

/// Where [`Meter`] finds the size of its input; no template can write or name it.
pub const INPUT_BYTES: &str = " input bytes";
const MADE_BY: &str = " made";
const READS: &str = " reads";
const NESTS: &str = " nests";
pub const ADD: &str = " add";
pub const MULTIPLY: &str = " multiply";
pub const REMAINDER: &str = " remainder";
pub const CONCATENATE: &str = " concatenate";
pub const SLICE: &str = " slice";
pub const LOOPS: &str = " loops";
pub const ITEM: &str = " item";

/// What one rendering has left.
struct Meter {
    made: u64,
    read: u64,
}

/// The problem of a template that is out of bounds.
fn beyond(what: &str) -> Error {
    Error::new(ErrorKind::OutOfFuel, format!("found a template that {what}"))
}

fn meter<'a>(state: &'a mut State) -> &'a mut Meter {
    let input = match state.get_extension::<Meter>() {
        Some(_) => 0,
        None => state.lookup(INPUT_BYTES).and_then(|v| u64::try_from(v).ok()).unwrap_or(0),
    };
    state.get_or_insert_extension_with(|| Meter {
        made: MADE.saturating_add(MADE_PER_BYTE.saturating_mul(input)),
        read: READ.saturating_add(READ_PER_BYTE.saturating_mul(input)),
    })
}

/// Before something of so many bytes is made.
pub fn made(state: &mut State, bytes: u64) -> Result<(), Error> {
    let meter = meter(state);
    meter.made = meter.made.checked_sub(bytes).ok_or_else(|| {
        beyond("builds more text than a conversation can need, expected at most 16 MiB and 64 bytes for each of its input")
    })?;
    Ok(())
}

/// Before so many bytes are read.
pub fn read(state: &mut State, bytes: u64) -> Result<(), Error> {
    let meter = meter(state);
    meter.read = meter
        .read
        .checked_sub(bytes)
        .ok_or_else(|| beyond("does not end soon enough, expected one that reads its input a few times"))?;
    Ok(())
}

/// Before a value is read whole: its bytes, those of what is in it included. What occurs twice in it counts twice.
pub fn read_value(state: &mut State, value: &Value) -> Result<u64, Error> {
    walk(state, value, 1, 0)
}

/// Refuses values that are nested too deep.
pub fn nests(state: &mut State, value: &Value) -> Result<(), Error> {
    walk(state, value, 0, 0).map(drop)
}

/// What reading an element of a list or dict costs, in bytes.
const VISIT: u64 = 32;

/// Charges for a value as it goes through it, so that it never goes further than there is something left.
fn walk(state: &mut State, value: &Value, per_byte: u64, depth: usize) -> Result<u64, Error> {
    if let Some(text) = value.as_str() {
        let bytes = text.len() as u64;
        read(state, VISIT + per_byte * bytes)?;
        return Ok(bytes);
    }
    read(state, VISIT)?;
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
        return Ok(ELEMENT);
    }
    if depth >= DEPTH {
        return Err(beyond(&format!("nests lists or dicts deeper than {DEPTH}")));
    }
    let mut bytes = ELEMENT;
    let map = value.kind() == ValueKind::Map;
    for item in value.try_iter()? {
        if map {
            let inner = value.get_item(&item)?;
            bytes += walk(state, &inner, per_byte, depth + 1)?;
        }
        bytes += walk(state, &item, per_byte, depth + 1)?;
    }
    Ok(bytes)
}

/// Gives an environment what rewritten programs ask.
pub fn install(environment: &mut Environment) {
    environment.set_fuel(Some(FUEL));
    environment.add_function(MADE_BY, |state: &mut State, bytes: u64| made(state, bytes));
    environment.add_function(READS, |state: &mut State, value: &Value| read_value(state, value).map(drop));
    environment.add_function(NESTS, |state: &mut State, value: &Value| nests(state, value));
}

/// A compiled and rewritten template.
pub struct Program {
    /// What runs.
    pub instructions: Instructions<'static>,
}

impl Program {
    /// Compiles a template.
    pub fn new(name: &'static str, source: &'static str, syntax: SyntaxConfig) -> Result<Self, Error> {
        parseable(source, &syntax)?;
        let tree = parse(source, name, syntax)?;
        let mut generator = CodeGenerator::new(name, source);
        generator.compile_stmt(&tree);
        let (instructions, _) = generator.finish();
        Ok(Self { instructions: metered(&instructions)? })
    }
}

/// Refuses what the parser would take too deep, and products of constants that it would compute,
/// unasked, while it compiles.
fn parseable(source: &str, syntax: &SyntaxConfig) -> Result<(), Error> {
    let (mut branches, mut computed) = (0, 0u64);
    let mut tag = Tag::default();
    // What is no token is the parser's to report.
    for (token, span) in tokenize(source, false, syntax.clone()).map_while(Result::ok) {
        tag.read(&token);
        branches += usize::from(matches!(token, Token::Ident("elif")));
        if matches!(token, Token::VariableEnd | Token::BlockEnd) {
            computed = computed.saturating_add(std::mem::take(&mut tag).computes());
        }
        let what = match () {
            () if tag.tokens > TAG_TOKENS => format!("an expression of more than {TAG_TOKENS} tokens"),
            () if branches > BRANCHES => format!("more than {BRANCHES} elif"),
            () if computed > MADE => "products of constants that may be larger than 16 MiB".to_string(),
            () => continue,
        };
        return Err(Error::new(ErrorKind::SyntaxError, format!("found {what}, at line {}", span.start_line)));
    }
    Ok(())
}

/// What stands between two braces.
#[derive(Default)]
struct Tag {
    tokens: usize,
    /// Bytes of its texts and lists; 0 if it has none.
    bytes: u64,
    multiplies: bool,
    raises: bool,
    /// Of all its integers.
    product: Option<u64>,
}

impl Tag {
    fn read(&mut self, token: &Token) {
        self.tokens += 1;
        match token {
            Token::Str(text) => self.bytes += ELEMENT + text.len() as u64,
            Token::String(text) => self.bytes += ELEMENT + text.len() as u64,
            Token::BracketOpen => self.bytes += ELEMENT,
            Token::Comma => self.bytes += ELEMENT,
            Token::Mul => self.multiplies = true,
            Token::Pow => self.raises = true,
            Token::Int(i) => self.product = Some(self.product.unwrap_or(1).saturating_mul((*i).max(1))),
            Token::Int128(_) => self.product = Some(u64::MAX),
            _ => {}
        }
    }

    /// The largest that its constants can be multiplied into, if they are.
    fn computes(&self) -> u64 {
        match (self.multiplies, self.raises) {
            (false, _) => 0,
            (true, false) => self.bytes.saturating_mul(self.product.unwrap_or(1)),
            (true, true) => self.bytes.saturating_mul(u64::MAX),
        }
    }
}

/// The same program, metered.
fn metered(plain: &Instructions<'static>) -> Result<Instructions<'static>, Error> {
    let all: Vec<&Instruction> = (0..).map_while(|i| plain.get(i)).collect();
    // Where each instruction goes, with what is asked before it; the last entry is the end.
    let mut moved = Vec::with_capacity(all.len() + 1);
    let mut at = 0;
    for instruction in &all {
        moved.push(at);
        at += before(instruction).len() as u32 + 1 + after(instruction).len() as u32;
    }
    moved.push(at);

    let mut program = Instructions::new(plain.name(), plain.source());
    for (i, instruction) in all.into_iter().enumerate() {
        let line = plain.get_line(i as u32).unwrap_or(0) as u16;
        for asked in before(instruction) {
            program.add_with_line(asked, line);
        }
        let refused = match instruction {
            Instruction::PushAutoEscape => Some("autoescape, expected a template of plain text"),
            Instruction::CallBlock(_) => Some("a block, expected a template that extends no other"),
            _ => None,
        };
        if let Some(what) = refused {
            return Err(Error::new(ErrorKind::SyntaxError, format!("found {what}, at line {line}")));
        }
        program.add_with_line(replaced(instruction, &moved), line);
        for asked in after(instruction) {
            program.add_with_line(asked, line);
        }
    }
    Ok(program)
}

fn of_top(function: &'static str) -> Vec<Instruction<'static>> {
    use Instruction::{CallFunction, DiscardTop, DupTop};
    vec![DupTop, CallFunction(function, Some(1)), DiscardTop]
}

fn before(instruction: &Instruction) -> Vec<Instruction<'static>> {
    use Instruction::*;
    match instruction {
        EmitRaw(text) => {
            vec![LoadConst(Value::from(text.len())), CallFunction(MADE_BY, Some(1)), DiscardTop]
        }
        // The right operand is what is searched; comparing reads no more than the shorter one.
        Eq | Ne | Gt | Gte | Lt | Lte | In | CompareAndPreserve(_) => of_top(READS),
        PushLoop(_) => of_top(LOOPS),
        // The namespace: chains of namespaces are nested values too.
        SetAttr(_) => of_top(NESTS),
        _ => Vec::new(),
    }
}

fn after(instruction: &Instruction) -> Vec<Instruction<'static>> {
    use Instruction::*;
    match instruction {
        BuildList(_) | BuildTuple(_) | BuildMap(_) => of_top(NESTS),
        // In a list: alone they would be keyword arguments of what is asked.
        BuildKwargs(_) => vec![DupTop, BuildList(Some(1)), CallFunction(NESTS, Some(1)), DiscardTop],
        _ => Vec::new(),
    }
}

fn replaced(instruction: &Instruction<'static>, moved: &[u32]) -> Instruction<'static> {
    use Instruction::*;
    let to = |target: u32| moved[target as usize];
    match instruction {
        Add => CallFunction(ADD, Some(2)),
        Mul => CallFunction(MULTIPLY, Some(2)),
        Rem => CallFunction(REMAINDER, Some(2)),
        StringConcat => CallFunction(CONCATENATE, Some(2)),
        Slice => CallFunction(SLICE, Some(4)),
        GetItem => CallFunction(ITEM, Some(2)),
        Iterate(target) => Iterate(to(*target)),
        Jump(target) => Jump(to(*target)),
        JumpIfFalse(target) => JumpIfFalse(to(*target)),
        JumpIfFalseOrPop(target) => JumpIfFalseOrPop(to(*target)),
        JumpIfTrueOrPop(target) => JumpIfTrueOrPop(to(*target)),
        BuildMacro(name, target, flags) => BuildMacro(name, to(*target), *flags),
        other => other.clone(),
    }
}
