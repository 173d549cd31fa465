//! Two texts line by line, as `diff -u` shows them.

/// Lines around a difference that are shown.
const AROUND: usize = 3;
/// Texts of more lines are compared from their first difference on.
const LINES_MAX: usize = 4000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Same,
    Gone,
    New,
}

/// What is in one text and not in the other: `-` expected and not there, `+` there and not expected.
pub(super) fn diff(expected: &str, found: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    let steps = steps(&old, &new);
    let near = |at: usize| {
        let from = at.saturating_sub(AROUND);
        let to = (at + AROUND + 1).min(steps.len());
        steps[from..to].iter().any(|step| *step != Step::Same)
    };
    let (mut out, mut i, mut j, mut skipped) = (String::new(), 0, 0, false);
    for (at, step) in steps.iter().enumerate() {
        let (sign, line) = match step {
            Step::Same => (' ', new[j]),
            Step::Gone => ('-', old[i]),
            Step::New => ('+', new[j]),
        };
        i += usize::from(*step != Step::New);
        j += usize::from(*step != Step::Gone);
        if *step == Step::Same && !near(at) {
            skipped = true;
            continue;
        }
        if std::mem::take(&mut skipped) {
            out.push_str("  …\n");
        }
        out.push(sign);
        out.push(' ');
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// The shortest way from one text to the other.
fn steps(old: &[&str], new: &[&str]) -> Vec<Step> {
    let same = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let mut steps = vec![Step::Same; same];
    let (old, new) = (&old[same..], &new[same..]);
    if old.len() > LINES_MAX || new.len() > LINES_MAX {
        steps.extend(std::iter::repeat_n(Step::Gone, old.len()));
        steps.extend(std::iter::repeat_n(Step::New, new.len()));
        return steps;
    }
    // The length of the longest common part of what is left of both, from the end.
    let width = new.len() + 1;
    let mut common = vec![0_u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i * width + j] = if old[i] == new[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        let step = if i < old.len() && j < new.len() && old[i] == new[j] {
            Step::Same
        } else if j == new.len()
            || (i < old.len() && common[(i + 1) * width + j] >= common[i * width + j + 1])
        {
            Step::Gone
        } else {
            Step::New
        };
        i += usize::from(step != Step::New);
        j += usize::from(step != Step::Gone);
        steps.push(step);
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::diff;

    #[test]
    fn a_difference_is_shown_with_the_lines_around_it() {
        let old: Vec<String> = (0..20).map(|n| format!("line {n}")).collect();
        let mut new = old.clone();
        new[10] = "other".to_owned();
        new.remove(15);
        let shown = diff(&old.join("\n"), &new.join("\n"));
        assert_eq!(
            shown,
            "  …\n  line 7\n  line 8\n  line 9\n- line 10\n+ other\n  line 11\n  line 12\n  line 13\n  line 14\n\
             - line 15\n  line 16\n  line 17\n  line 18\n"
        );
        assert_eq!(diff("a\nb", "a\nb"), "");
        assert_eq!(diff("", "a"), "+ a\n");
    }
}
