//! What is changed in a kernel, one thing at a time.

/// One changed kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Mutant {
    /// Its line in the file, from 1.
    pub line: usize,
    /// What was done to it.
    pub change: String,
    /// The whole file, changed.
    pub text: String,
}

/// Calls that order threads or copies. Dropped, what they order is a matter of luck.
const ORDERING: [&str; 13] = [
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
    "wgmma_wait<",
    "wgmma_commit",
    "wgmma_fence",
];

/// Every mutant of a kernel's text: each ordering call dropped, each comparison moved by one, each guard made true.
pub fn mutants(text: &str) -> Vec<Mutant> {
    let code = blank_comments(text);
    let mut found = vec![];
    let mut add = |start: usize, end: usize, with: &str, what: &str| {
        let line = text[..start].matches('\n').count() + 1;
        let place =
            text[text[..start].rfind('\n').map_or(0, |i| i + 1)..].lines().next().unwrap_or("").trim();
        let mut changed = text.to_string();
        changed.replace_range(start..end, with);
        found.push(Mutant { line, change: format!("{what}: {place}"), text: changed });
    };
    for call in ORDERING {
        for (start, _) in code.match_indices(call) {
            // A call, not a name that ends so, nor its definition.
            let before = code[..start].trim_end();
            let Some(end) = call_end(&code, start) else { continue };
            if before.ends_with([';', '{', '}', ')', ':']) || before.ends_with("else") {
                add(start, end, "(void)0", "dropped");
            }
        }
    }
    for (word, other) in [(" < ", " <= "), (" <= ", " < "), (" > ", " >= "), (" >= ", " > ")] {
        for (start, _) in code.match_indices(word) {
            if is_constant(&code[start + word.len()..]) {
                continue; // the bound of a loop over registers
            }
            add(start, start + word.len(), other, &format!("'{}' for '{}'", other.trim(), word.trim()));
        }
    }
    for (start, _) in code.match_indices("if (") {
        let open = start + 3;
        let Some(end) = closing(&code, open) else { continue };
        let condition = &code[open + 1..end];
        let compares = [" < ", " <= ", " > ", " >= "].iter().any(|op| condition.contains(op));
        if compares && !code[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            add(open + 1, end, "true", "guard made true");
        }
    }
    found.sort_by(|a, b| (a.line, &a.change).cmp(&(b.line, &b.change)));
    found
}

/// Whether an expression begins with a number, or with a name that by its capitals is a constant of the program.
fn is_constant(expression: &str) -> bool {
    let end = expression.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(expression.len());
    !expression[..end]
        .chars()
        .any(|c| c.is_lowercase() && !expression.starts_with(|c: char| c.is_ascii_digit()))
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

#[test]
fn each_barrier_guard_and_comparison_gives_a_mutant() {
    let text = "// a < b\nDEV void f(int n) {\n  for (int k = 0; k < KEEP; k++) if (i < n && i > last) x = y;\n  __syncthreads();\n  cp_async_wait<N - 1>();\n}\n";
    let changes: Vec<(usize, String)> = mutants(text).into_iter().map(|m| (m.line, m.change)).collect();
    let expected = [
        (3, "'<=' for '<': for (int k = 0; k < KEEP; k++) if (i < n && i > last) x = y;"),
        (3, "'>=' for '>': for (int k = 0; k < KEEP; k++) if (i < n && i > last) x = y;"),
        (3, "guard made true: for (int k = 0; k < KEEP; k++) if (i < n && i > last) x = y;"),
        (4, "dropped: __syncthreads();"),
    ];
    assert_eq!(changes[..4], expected.map(|(line, change)| (line, change.to_string())));
    assert!(mutants(text)[2].text.contains("if (true) x = y;"));
    assert!(mutants(text)[3].text.contains("  (void)0;\n"));
}
