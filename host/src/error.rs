//! Prints an error together with its causes, and numbers with their nouns.

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Returns a number with its noun, in the plural unless the number is 1.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn only_one_is_singular() {
        let found = [0, 1, 2].map(|count| counted(count, "connection"));
        assert_eq!(found, ["0 connections", "1 connection", "2 connections"]);
    }
}
