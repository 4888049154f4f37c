//! The text of a scene: facts, and a question about one of them.

/// Words, and where the facts that matter are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// One token each.
    pub words: Vec<&'static str>,
    /// The first token of the question: from here on, queries look for the answer.
    pub question: usize,
    /// The token that answers, for each head: the number asked for, and the number of another place.
    pub answers: [usize; 2],
}

const PLACES: [&str; 10] = ["Rome", "Oslo", "Paris", "Cairo", "Lima", "Delhi", "Quito", "Kyiv", "Accra", "Hanoi"];
const NUMBERS: [&str; 14] = ["17", "58", "42", "93", "61", "29", "84", "36", "75", "12", "50", "68", "23", "97"];
const START: &str = "⟨start⟩";
const QUESTION: [&str; 6] = ["and", "the", "number", "of", "Paris", "is"];

impl Text {
    /// A text of `n` words, at least 16: "⟨start⟩ Rome is 17 , Oslo is 58 , Paris is 42 , … and the number of Paris is".
    pub fn new(n: usize) -> Self {
        let question = n - QUESTION.len();
        let fact = |f: usize| {
            // Paris is told once, among places that take turns.
            let place =
                if f == 2 { PLACES[2] } else { PLACES[(f + usize::from(f % PLACES.len() == 2)) % PLACES.len()] };
            [place, "is", NUMBERS[f % NUMBERS.len()], ","]
        };
        let facts = (0..).flat_map(fact).take(question - 1);
        let words = [START].into_iter().chain(facts).chain(QUESTION).collect();
        Text { words, question, answers: [3 + 4 * 2, 3 + 4] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_are_where_the_text_has_them() {
        for n in [24, 32, 64, 128] {
            let text = Text::new(n);
            assert_eq!(text.words.len(), n);
            assert_eq!(text.words[text.question..], QUESTION);
            assert_eq!(text.answers.map(|j| (text.words[j - 2], text.words[j])), [("Paris", "42"), ("Oslo", "58")]);
            assert_eq!(text.words[..text.question].iter().filter(|word| **word == "Paris").count(), 1, "{n}");
            assert!(text.answers.iter().all(|j| *j < text.question));
        }
    }
}
