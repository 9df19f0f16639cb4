//! What is changed in a kernel, one thing at a time.
//!
//! - A call that orders threads or copies is dropped.
//! - A comparison of places is moved by one. Outside of the head of a loop it is also made true, and false: one of the
//!   two drops a guard.
//! - A bound is dropped: of `min(a, b)` and `max(a, b)` one is left.
//!
//! Left alone are comparisons that the compiler decides (both sides are constants, or the statement is `constexpr`) and the
//! bounds of loops over registers (from a constant to a constant). A comparison with a floating-point number is one of
//! values, which have no edge to be moved.

use std::ops::Range;

/// One changed kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Mutant {
    /// Its line in the file, from 1.
    pub line: usize,
    /// What was done, and the line as it is now.
    pub change: String,
    /// The whole file, changed.
    pub text: String,
}

/// Calls that order threads or copies. Dropped, what they order is a matter of luck.
const ORDERING: [&str; 16] = [
    "__syncthreads",
    "__syncwarp",
    "__threadfence",
    "cp_async_wait<",
    "cp_async_commit",
    "named_barrier_sync",
    "named_barrier_arrive",
    "mbarrier_wait",
    "mbarrier_arrive",
    "fence_",
    "tma_store_",
    "wgmma_wait<",
    "wgmma_commit",
    "wgmma_fence",
    "wait_acquire",
    "store_release",
];

/// Comparisons, and the same ones moved by one.
const COMPARISONS: [(&str, &str); 4] = [(" < ", " <= "), (" <= ", " < "), (" > ", " >= "), (" >= ", " > ")];

/// Every mutant of a kernel's text, from its first line to its last.
pub fn mutants(text: &str) -> Vec<Mutant> {
    let code = blank_comments(text);
    let mut found: Vec<(usize, Mutant)> = vec![];
    let mut add = |range: Range<usize>, with: &str, what: &str| {
        let mut changed = text.to_string();
        changed.replace_range(range.clone(), with);
        let before = text[..range.start].matches('\n').count();
        let line = changed.lines().nth(before).unwrap_or("").trim_end_matches('\\').trim();
        let change = format!("{what}: {line}");
        found.push((range.start, Mutant { line: before + 1, change, text: changed }));
    };
    for call in ORDERING {
        for (start, _) in code.match_indices(call) {
            // A call, not a name that ends so, nor its definition.
            let before = code[..start].trim_end();
            let Some(end) = call_end(&code, start) else { continue };
            if before.ends_with([';', '{', '}', ')', ':']) || before.ends_with("else") {
                add(start..end, "(void)0", "dropped");
            }
        }
    }
    for (sign, moved) in COMPARISONS {
        for (start, _) in code.match_indices(sign) {
            let (left, right) = (operand_before(&code, start), operand_after(&code, start + sign.len()));
            let decided = is_constant(&code[left.clone()]) && is_constant(&code[right.clone()]);
            if decided || is_constexpr(&code, start) {
                continue;
            }
            let head = loop_head(&code, start);
            if head.is_some_and(from_constant) && is_constant(&code[right.clone()]) {
                continue;
            }
            if !is_float(&code[right.clone()]) {
                add(start..start + sign.len(), moved, "moved by one");
            }
            if head.is_none() {
                add(left.start..right.end, "true", "always true");
                add(left.start..right.end, "false", "always false");
            }
        }
    }
    for bound in ["min(", "max("] {
        for (start, _) in code.match_indices(bound) {
            let open = start + bound.len() - 1;
            let (Some(close), false) = (closing(&code, open), code[..start].ends_with(is_word)) else {
                continue;
            };
            let first = operand_after(&code, open + 1);
            if code[first.end..].starts_with(',') && !is_constexpr(&code, start) {
                add(start..close + 1, &format!("({})", &text[first.clone()]), "first one alone");
                add(
                    start..close + 1,
                    &format!("({})", text[first.end + 1..close].trim()),
                    "second one alone",
                );
            }
        }
    }
    found.sort_by(|(a, x), (b, y)| (a, &x.change).cmp(&(b, &y.change)));
    found.into_iter().map(|(_, mutant)| mutant).collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether an expression is made of numbers and of names that by their capitals are constants of the program.
fn is_constant(expression: &str) -> bool {
    let mut words = expression.split(|c| !is_word(c)).filter(|word| !word.is_empty());
    words.all(|word| word.starts_with(|c: char| c.is_ascii_digit()) || !word.contains(char::is_lowercase))
}

/// Whether an expression begins with a floating-point number.
fn is_float(expression: &str) -> bool {
    let end = expression.find(|c| !is_word(c) && c != '.').unwrap_or(expression.len());
    expression.starts_with(|c: char| c.is_ascii_digit()) && expression[..end].contains('.')
}

/// Whether the compiler evaluates the statement around `at`.
fn is_constexpr(code: &str, at: usize) -> bool {
    let start = code[..at].rfind([';', '{', '}']).map_or(0, |i| i + 1);
    code[start..at].contains("constexpr") || code[start..at].contains("static_assert")
}

/// The head of the `for` or `while` that `at` lies in, up to `at`.
fn loop_head(code: &str, at: usize) -> Option<&str> {
    let mut depth = 0;
    for (i, c) in code[..at].char_indices().rev() {
        match c {
            ')' => depth += 1,
            '(' if depth > 0 => depth -= 1,
            '(' if code[..i].ends_with("for ") || code[..i].ends_with("while ") => {
                return Some(&code[i + 1..at]);
            }
            '(' => {}
            '{' | '}' => return None,
            _ => {}
        }
    }
    None
}

/// Whether the loop of this head counts from a constant.
fn from_constant(head: &str) -> bool {
    let first = head.split(';').next().unwrap_or("");
    first.split_once('=').is_some_and(|(_, start)| is_constant(start))
}

/// The operand that ends at `end`: back to what opens, separates or joins expressions.
fn operand_before(code: &str, end: usize) -> Range<usize> {
    let mut depth = 0;
    let mut start = end;
    for (i, c) in code[..end].char_indices().rev() {
        match c {
            ')' | ']' => depth += 1,
            '(' | '[' if depth > 0 => depth -= 1,
            '(' | '[' | '{' | '}' | ';' | ',' | '=' | '!' | '?' if depth == 0 => break,
            '&' | '|' if depth == 0 && i > 0 && code[..i].ends_with(c) => break,
            ':' if depth == 0 && !code[..i].ends_with(':') && !code[i + 1..].starts_with(':') => break,
            ' ' if depth == 0 && code[..i].ends_with("return") => break,
            _ => {}
        }
        start = i;
    }
    // Of `a && b` the second sign ended it; spaces belong to nobody.
    start += code[start..end].len() - code[start..end].trim_start().len();
    start..end
}

/// The operand that begins at `start`: up to what closes, separates or joins expressions.
fn operand_after(code: &str, start: usize) -> Range<usize> {
    let mut depth = 0;
    let mut end = code.len();
    for (i, c) in code[start..].char_indices().map(|(i, c)| (start + i, c)) {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' if depth > 0 => depth -= 1,
            ')' | ']' | '}' | ';' | ',' | '?' => end = i,
            '&' | '|' if code[i + 1..].starts_with(c) => end = i,
            ':' if !code[..i].ends_with(':') && !code[i + 1..].starts_with(':') => end = i,
            _ => {}
        }
        if end == i && depth == 0 {
            break;
        }
        end = code.len();
    }
    start..start + code[start..end].trim_end().len()
}

/// The text with comments turned to spaces of the same length.
fn blank_comments(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |i| i + 2)
        } else {
            0
        };
        if skipped > 0 {
            code.extend(rest[..skipped].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }));
            rest = &rest[skipped..];
        } else {
            let c = rest.chars().next().expect("the rest is not empty");
            // One byte for each, so that places in both texts are the same.
            code.extend(std::iter::repeat_n(if c.is_ascii() { c } else { ' ' }, c.len_utf8()));
            rest = &rest[c.len_utf8()..];
        }
    }
    code
}

/// Behind the closing parenthesis of the call that begins at `start`.
fn call_end(code: &str, start: usize) -> Option<usize> {
    let open = start + code[start..].find('(')?;
    let name = &code[start..open];
    let is_name = name.chars().all(|c| c.is_alphanumeric() || "_<> -".contains(c));
    if is_name { Some(closing(code, open)? + 1) } else { None }
}

/// The parenthesis that closes the one at `open`.
fn closing(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0;
    for (i, c) in code[open..].char_indices() {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        if depth == 0 {
            return Some(open + i);
        }
    }
    None
}

/// What is done to the statements of a kernel, as changed lines.
#[cfg(test)]
fn changes(body: &str) -> Vec<String> {
    let text = format!("// a < b\nDEV void f(int n) {{\n{body}\n}}\n");
    let found = mutants(&text);
    assert!(found.iter().all(|m| m.line == 3), "{found:?}");
    found.into_iter().map(|m| m.change.split_once(": ").expect("what: line").1.to_string()).collect()
}

#[test]
fn calls_that_order_are_dropped() {
    assert_eq!(changes("if (t != 0) __syncthreads();  // why"), ["if (t != 0) (void)0;  // why"]);
    assert_eq!(changes("cp_async_wait<N - 1>();"), ["(void)0;"]);
    assert_eq!(changes("mbarrier_arrive_expect(&full[slot], a * (b + c));"), ["(void)0;"]);
}

#[test]
fn a_comparison_is_moved_and_made_true_and_false() {
    assert_eq!(
        changes("if (i < n && x[k] >= last + 1) return;"),
        [
            "if (false && x[k] >= last + 1) return;",
            "if (true && x[k] >= last + 1) return;",
            "if (i <= n && x[k] >= last + 1) return;",
            "if (i < n && false) return;",
            "if (i < n && true) return;",
            "if (i < n && x[k] > last + 1) return;",
        ]
    );
    assert_eq!(
        changes("s = f(a, !(key <= j)) ? V::at : W::at;"),
        [
            "s = f(a, !(false)) ? V::at : W::at;",
            "s = f(a, !(true)) ? V::at : W::at;",
            "s = f(a, !(key < j)) ? V::at : W::at;",
        ]
    );
    assert_eq!(
        changes("return end > begin ? 1 : 0;"),
        ["return false ? 1 : 0;", "return true ? 1 : 0;", "return end >= begin ? 1 : 0;"]
    );
}

#[test]
fn the_bound_of_a_loop_is_only_moved() {
    assert_eq!(
        changes("for (u32 i = lane; i < 32 * N; i += 32) y;"),
        ["for (u32 i = lane; i <= 32 * N; i += 32) y;"]
    );
    assert_eq!(changes("for (int k = 0; k < KEEP; k++) y;"), [""; 0]);
}

#[test]
fn what_the_compiler_decides_is_left_alone_and_values_have_no_edge() {
    assert_eq!(changes("constexpr int A = sizeof(T) > sizeof(S) ? 1 : 2;"), [""; 0]);
    assert_eq!(changes("if (WIDTH <= 64) y;"), [""; 0]);
    assert_eq!(changes("y = x < 0.0f ? a : b;"), ["y = false ? a : b;", "y = true ? a : b;"]);
}

#[test]
fn a_bound_is_dropped() {
    assert_eq!(
        changes("end = min(ends[0], tokens - f(a, b));"),
        ["end = (ends[0]);", "end = (tokens - f(a, b));"]
    );
    assert_eq!(changes("y = fmaxf(a, b);"), [""; 0]);
}
