//! Writing marked loops out: for kernels whose arrays must have constant indices to stay in registers on every driver.

/// Ends the first line of a loop that may be written out.
const MARK: &str = "++) { // unrolled";

/// Replaces every loop `for (var i = 0u; i < COUNT; i++) { // unrolled` by COUNT copies of its body, each in a block where
/// `i` is a constant; `count` gives the value of COUNT. A loop ends at the brace in the column of its `for`.
pub(crate) fn unroll(text: &str, count: &impl Fn(&str) -> u32) -> String {
    let mut result = String::with_capacity(2 * text.len());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some((indent, name, bound)) = marked(line) else {
            result.push_str(line);
            result.push('\n');
            continue;
        };
        let end = format!("{indent}}}");
        let mut ended = false;
        let inside = lines.by_ref().take_while(|line| {
            ended = *line == end;
            !ended
        });
        let body: String = inside.flat_map(|line| [line, "\n"]).collect();
        assert!(ended, "a loop over {bound} does not end in its own column");
        let body = unroll(&body, count);
        for value in 0..count(bound) {
            result.push_str(&format!("{indent}{{\n{indent}    const {name} = {value}u;\n{body}{end}\n"));
        }
    }
    result
}

/// Indentation, variable and bound of a marked loop.
fn marked(line: &str) -> Option<(&str, &str, &str)> {
    let head = line.strip_suffix(MARK)?;
    let (indent, head) = head.split_once("for (var ")?;
    let (name, head) = head.split_once(" = 0u; ")?;
    let (_, head) = head.split_once(" < ")?;
    Some((indent, name, head.split_once(';')?.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_loops_are_written_out_and_others_stay() {
        let text = "\
fn main() {
    for (var i = 0u; i < TWO; i++) { // unrolled
        for (var j = 0u; j < ONE; j++) { // unrolled
            a[i] = j;
        }
    }
    for (var i = 0u; i < 2u; i++) {
        b();
    }
}
";
        let copy = |i: u32| {
            format!(
                "    {{\n        const i = {i}u;\n        {{\n            const j = 0u;\n            a[i] = j;\n        \
                 }}\n    }}\n"
            )
        };
        let expected = format!(
            "fn main() {{\n{}{}    for (var i = 0u; i < 2u; i++) {{\n        b();\n    }}\n}}\n",
            copy(0),
            copy(1)
        );
        assert_eq!(unroll(text, &|name| if name == "TWO" { 2 } else { 1 }), expected);
    }
}
