//! `${…}`: OmegaConf's interpolation, as NeMo's files use it.
//!
//! `${a.b}` is the value at a key from the root, `${.b}` from the mapping (or list) the text stands in, `${..b}` from
//! the one above it; `${name:arg, …}` calls one of `add`, `multiply`, `int_div`, `div`, `oc.env`. An interpolation that is a
//! whole text takes the value with its type (even a mapping); inside a longer text it is spelled out. They nest.
//! `\${` is a literal `${`.

use super::value::{Entry, Source, Value};
use crate::Result;

/// Levels of values, references and nested `${` together. A cycle is told apart before this is reached.
const MOST_LEVELS: usize = 100;
/// Values copied in all: what a real file needs is a hundredth of this.
const MOST_VALUES: usize = 100_000;
/// Bytes of one text.
const LONGEST_TEXT: usize = 1 << 16;

/// The tree with every interpolation replaced.
pub(super) fn resolve(tree: &Value, source: &Source) -> Result<Value> {
    let mut resolver = Resolver { root: tree, source, active: Vec::new(), values: 0 };
    let mut path = Vec::new();
    resolver.entries(tree, &mut path)
}

struct Resolver<'a> {
    root: &'a Value,
    source: &'a Source,
    /// The keys whose values are being resolved through references, outermost first.
    active: Vec<String>,
    values: usize,
}

type Outcome = std::result::Result<Value, String>;

impl Resolver<'_> {
    /// Resolves a mapping entry by entry, so that an error has the entry's place.
    fn entries(&mut self, value: &Value, path: &mut Vec<String>) -> Result<Value> {
        let Value::Map(entries) = value else {
            unreachable!("the root and the sections below it are mappings")
        };
        let mut out = Vec::with_capacity(entries.len());
        for entry in entries {
            path.push(entry.key.clone());
            let value = if matches!(entry.value, Value::Map(_)) {
                self.entries(&entry.value, path)?
            } else {
                self.active = vec![path.join(".")];
                self.value(&entry.value, path, path.len())
                    .map_err(|message| self.source.error(entry.origin, &path.join("."), message))?
            };
            path.pop();
            out.push(Entry { key: entry.key.clone(), value, origin: entry.origin });
        }
        Ok(Value::Map(out))
    }

    /// A value that stands at `path`, resolved.
    fn value(&mut self, value: &Value, path: &[String], level: usize) -> Outcome {
        self.values += 1;
        if level > MOST_LEVELS || self.values > MOST_VALUES {
            return Err("its interpolations are nested too deep or multiply too far".to_string());
        }
        Ok(match value {
            Value::Text(text) => self.text(text, path, level)?,
            Value::List(items) => {
                let mut out = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    out.push(self.value(item, &below(path, index), level + 1)?);
                }
                Value::List(out)
            }
            Value::Map(entries) => {
                let mut out = Vec::with_capacity(entries.len());
                for entry in entries {
                    let value = self.value(&entry.value, &below(path, &entry.key), level + 1)?;
                    out.push(Entry { key: entry.key.clone(), value, origin: entry.origin });
                }
                Value::Map(out)
            }
            scalar => scalar.clone(),
        })
    }

    fn text(&mut self, text: &str, path: &[String], level: usize) -> Outcome {
        if level > MOST_LEVELS {
            return Err("its interpolations are nested too deep".to_string());
        }
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            if let Some(before) = rest[..start].strip_suffix('\\') {
                out.push_str(before);
                out.push_str("${");
                rest = &rest[start + 2..];
                continue;
            }
            let end = closing_brace(&rest[start..])
                .ok_or_else(|| format!("{:?} opens ${{ and does not close it", shorten(text)))?;
            let value = self.expression(&rest[start + 2..start + end], path, level + 1)?;
            if start == 0 && end + 1 == text.len() {
                return Ok(value);
            }
            let words = value
                .scalar_text()
                .ok_or_else(|| format!("{:?} puts {} inside a text", shorten(text), value.describe()))?;
            out.push_str(&rest[..start]);
            out.push_str(&words);
            if out.len() > LONGEST_TEXT {
                return Err("its interpolations make a text of more than 64 KiB".to_string());
            }
            rest = &rest[start + end + 1..];
        }
        out.push_str(rest);
        Ok(Value::Text(out))
    }

    /// What stands between `${` and `}`.
    fn expression(&mut self, inner: &str, path: &[String], level: usize) -> Outcome {
        match split_call(inner) {
            Some((name, arguments)) => {
                let mut values = Vec::new();
                for argument in arguments {
                    let argument = argument.trim();
                    let value = match self.text(argument, path, level)? {
                        Value::Text(text) if text == argument => plain(&text),
                        value => value,
                    };
                    values.push(value);
                }
                call(name.trim(), &values)
            }
            None => {
                let key = match self.text(inner.trim(), path, level)? {
                    Value::Text(key) => key,
                    other => return Err(format!("${{{inner}}} names {} as a key", other.describe())),
                };
                self.reference(&key, path, level)
            }
        }
    }

    /// The value at a key, absolute or relative to what holds `path`.
    fn reference(&mut self, key: &str, path: &[String], level: usize) -> Outcome {
        let dots = key.chars().take_while(|&c| c == '.').count();
        let mut target: Vec<String> = match dots {
            0 => Vec::new(),
            _ if dots <= path.len() => path[..path.len() - dots].to_vec(),
            _ => return Err(format!("${{{key}}} goes above the root")),
        };
        target.extend(key[dots..].split('.').map(str::to_string));
        let full = target.join(".");
        if self.active.contains(&full) {
            return Err(format!("refers to itself: {} -> {full}", self.active.join(" -> ")));
        }
        let missing = || format!("${{{key}}} refers to {full}, which the file does not set");
        let mut value = self.root;
        for part in &target {
            value = match value {
                Value::List(items) => {
                    part.parse().ok().and_then(|i: usize| items.get(i)).ok_or_else(missing)?
                }
                _ => &value.entry(part).ok_or_else(missing)?.value,
            };
        }
        self.active.push(full);
        let outcome = self.value(value, &target, level + 1);
        self.active.pop();
        outcome
    }
}

/// The path of an item or an entry of what stands at `path`.
fn below(path: &[String], part: impl ToString) -> Vec<String> {
    let mut path = path.to_vec();
    path.push(part.to_string());
    path
}

/// Where the `}` of the `${` at the start of `text` is.
fn closing_brace(text: &str) -> Option<usize> {
    let mut open = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => open += 1,
            '}' => {
                open -= 1;
                if open == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// `name:a, b` into its parts, `None` if there is no `:` outside a nested `${}`.
fn split_call(inner: &str) -> Option<(&str, Vec<&str>)> {
    let mut open = 0usize;
    let mut colon = None;
    let mut cuts = Vec::new();
    for (at, c) in inner.char_indices() {
        match c {
            '{' => open += 1,
            '}' => open = open.saturating_sub(1),
            ':' if open == 0 && colon.is_none() => {
                colon = Some(at);
                cuts.push(at + 1);
            }
            ',' if open == 0 && colon.is_some() => cuts.push(at + 1),
            _ => {}
        }
    }
    let name = &inner[..colon?];
    let ends = cuts.iter().skip(1).map(|cut| cut - 1).chain([inner.len()]);
    Some((name, cuts.iter().zip(ends).map(|(&start, end)| &inner[start..end]).collect()))
}

/// An argument as YAML reads a plain word: a number where it is one.
fn plain(text: &str) -> Value {
    if let Ok(value) = text.parse::<i64>() {
        return Value::Int(value.into());
    }
    text.parse().map_or_else(|_| Value::Text(text.to_string()), Value::Float)
}

fn call(name: &str, arguments: &[Value]) -> Outcome {
    match (name, arguments) {
        ("add" | "multiply" | "int_div" | "div", [a, b]) => arithmetic(name, a, b),
        ("oc.env", [Value::Text(variable)]) => {
            environment(variable).ok_or_else(|| format!("the environment variable {variable} is not set"))
        }
        ("oc.env", [Value::Text(variable), default]) => Ok(environment(variable).unwrap_or(default.clone())),
        ("add" | "multiply" | "int_div" | "div" | "oc.env", _) => {
            Err(format!("${{{name}:…}} does not take {} arguments of this kind", arguments.len()))
        }
        _ => Err(format!(
            "${{{}:…}} is not known; expected add, multiply, int_div, div or oc.env",
            shorten(name)
        )),
    }
}

fn environment(variable: &str) -> Option<Value> {
    std::env::var(variable).ok().map(Value::Text)
}

fn arithmetic(name: &str, a: &Value, b: &Value) -> Outcome {
    let wrong = || format!("${{{name}:…}} of {} and {} has no value", a.describe(), b.describe());
    if let (Value::Int(a), Value::Int(b)) = (a, b)
        && name != "div"
    {
        let whole = match name {
            "add" => a.checked_add(*b),
            "multiply" => a.checked_mul(*b),
            // Python's //: towards minus infinity.
            _ => a.checked_div_euclid(*b).map(|q| if *b < 0 && a.rem_euclid(*b) != 0 { q - 1 } else { q }),
        };
        return whole.map(Value::Int).ok_or_else(wrong);
    }
    let number = |value: &Value| match value {
        Value::Int(value) => Ok(*value as f64),
        Value::Float(value) => Ok(*value),
        _ => Err(wrong()),
    };
    let (a, b) = (number(a)?, number(b)?);
    let result = match name {
        "add" => a + b,
        "multiply" => a * b,
        "div" => a / b,
        _ => (a / b).floor(),
    };
    if result.is_finite() { Ok(Value::Float(result)) } else { Err(wrong()) }
}

/// The start of a text, for a message.
fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}
