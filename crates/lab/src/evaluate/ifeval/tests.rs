//! The rules on texts of our own.

use super::*;

/// Verdicts on answers to one prompt.
fn check(id: &str, prompt: &str, answers: &[(&str, bool)]) {
    for (answer, expected) in answers {
        assert_eq!(IfEval::check(id, prompt, answer), Some(*expected), "{id}: {answer:?}");
    }
}

fn rule(id: &str, prompt: &str) -> Option<Rule> {
    Rule::of(id, prompt)
}

#[test]
fn rules_without_an_argument() {
    let check = |id, answers: &[(&str, bool)]| check(id, "Tell me about rivers.", answers);
    check("punctuation:no_comma", &[("Long and wide.", true), ("Long, wide.", false), ("", true)]);
    check(
        "change_case:english_lowercase",
        &[("rivers run. 3 of them.", true), ("Rivers run.", false), ("123", false)],
    );
    check(
        "change_case:english_capital",
        &[("RIVERS RUN.", true), ("RIVERS RuN.", false), ("", false)],
    );
    check(
        "detectable_format:json_format",
        &[
            ("{\"rivers\": [\"Rhine\"]}", true),
            ("```json\n{\"rivers\": 1}\n```", true),
            ("```\n[1, 2]\n```\n", true),
            ("Here it is: {\"rivers\": 1}", false),
            ("{'rivers': 1}", false),
        ],
    );
    check(
        "detectable_format:title",
        &[
            ("<<On rivers>>\nThey run.", true),
            ("They run. <<<The end>>>", true),
            ("<<>> They run.", false),
            ("<< >>", false),
            ("<<On\nrivers>>", false),
            ("<On rivers>", false),
        ],
    );
    check(
        "startend:quotation",
        &[
            ("\"Rivers run.\"\n", true),
            ("\"Rivers\" run.", false),
            ("\"", false),
            ("\u{201c}Rivers run.\u{201d}", false),
        ],
    );
    check(
        "combination:two_responses",
        &[
            ("They run.\n******\nThey flow.", true),
            ("******\nThey run.\n******\nThey flow.\n******", true),
            ("They run.\n******\nThey run.", false),
            ("They run.\n***\nThey flow.", false),
            ("They run.\n******\n\n******\nThey flow.", false),
            ("a ****** b ****** c", false),
        ],
    );
    check(
        "detectable_format:constrained_response",
        &[("I think so. My answer is yes.", true), ("Yes.", false), ("my answer is no.", false)],
    );
}

#[test]
fn words_and_sentences_are_counted_against_the_stated_bounds() {
    let words = "length_constraints:number_words";
    check(words, "Use at least 3 words.", &[("one two three", true), ("one two", false)]);
    // An apostrophe parts a word, as in the original.
    check(words, "Use less than 3 words.", &[("it's", true), ("it's so", false)]);
    let sentences = "length_constraints:number_sentences";
    let prompt = "Explain it in 2 to 3 sentences.";
    check(
        sentences,
        prompt,
        &[
            ("It runs.", false),
            ("It runs. It is wide!", true),
            ("It runs! Is it wide? \"Yes.\" No end", false),
            ("Dr. A. Smith saw it, e.g. in May. It was wide...", true),
            ("1. It runs.\n2. It is wide.\n3. I saw it, too, as did I.", true),
            ("River\n\nIt runs 3.5 km. It is wide.", true),
        ],
    );
}

#[test]
fn marks_are_counted_as_the_original_counts_them() {
    check(
        "detectable_format:number_bullet_lists",
        "Write exactly 2 bullet points.",
        &[
            ("* one\n* two", true),
            ("Two:\n  - one\n  * two\n", true),
            ("* one", false),
            ("* one\n* two\n- three", false),
            ("**one**\n* two\n*", false),
        ],
    );
    check(
        "detectable_format:number_highlighted_sections",
        "Highlight at least two sections, like *this*.",
        &[
            ("*one* and *two*", true),
            ("**one** and *two*", true),
            ("**one** and ** **", false),
            ("*one*", false),
            ("*one\n* two*", false),
            ("* one\n* two", false),
        ],
    );
    check(
        "detectable_content:number_placeholders",
        "Include at least 2 placeholders, such as [day].",
        &[("[a] and [b c]", true), ("[a] and [b\nc]", false), ("[[a]]", false), ("[a][b", false)],
    );
    check(
        "length_constraints:number_paragraphs",
        "Write 2 paragraphs, separated by ***.",
        &[
            ("a\n***\nb", true),
            ("***\na\n***\nb\n***", true),
            ("a\n\nb", false),
            ("a\n***\n***\nb", false),
        ],
    );
}

#[test]
fn postscripts_and_ends_are_read_from_the_prompt() {
    let postscript = "detectable_content:postscript";
    check(
        postscript,
        "Add a postscript that starts with P.S.",
        &[("Yours.\n\nP.S. Come soon.", true), ("p. s. come", true), ("PS: come", false)],
    );
    check(
        postscript,
        "End with a postscript starting with P.P.S",
        &[("Yours.\nP.P.S Come.", true), ("Yours.\nP.S. Come.", false)],
    );
    assert_eq!(rule(postscript, "Add a P.S. and a P.P.S."), None);
    assert_eq!(rule(postscript, "Add a postscript."), None);
    let end = "startend:end_checker";
    check(
        end,
        "Say \"hello\" first. Finish your answer with \u{201c}That is all, friends.\u{201d} Nothing follows.",
        &[
            ("hello\nThat is all, friends.\n", true),
            ("\"hello. that is all, friends.\"", true),
            ("That is all, friends. Bye.", false),
        ],
    );
    for prompt in [
        "End with: That is all",
        "Say \"hello\" and go on.",
        "End with \"one\". The last sentence is \"two\".",
        "End with \"one.",
        "Do not end it. Say \"one\".",
        "End with \"\".",
    ] {
        assert_eq!(rule(end, prompt), None, "{prompt}");
    }
}

#[test]
fn a_letter_is_counted_in_either_case() {
    let letter = "keywords:letter_frequency";
    let prompt =
        "Write to me. Use the letter Q at least 2 times, and the word \"duck\" at most thrice.";
    check(letter, prompt, &[("Quack, quack.", true), ("Quack.", false)]);
    for prompt in [
        "Use the letter q at least 2 times and the word duck at least 3 times.",
        "Use the letter q at least 2 times and the letter x at least 2 times.",
        "Avoid the letter q.",
        "Use the letter q at most once.",
        "Write a letter. Use words with all capital letters at least 2 times.",
    ] {
        assert_eq!(rule(letter, prompt), None, "{prompt}");
    }
}

/// Bounds of a number of words, and how they are read.
#[test]
fn a_number_is_read_where_its_wording_has_one_reading() {
    let words = "length_constraints:number_words";
    for (prompt, min, max) in [
        ("Write at least 1,200 words.", 1200, None),
        ("Write no less than 20 words.", 20, None),
        ("Write a minimum of twenty words.", 20, None),
        ("Write 300+ words about it.", 300, None),
        ("Write a 300+ word story.", 300, None),
        ("Write 40 or more words.", 40, None),
        ("Write more than 40 words.", 41, None),
        ("Write 40 words or less.", 0, Some(40)),
        ("Write no more than 40 words.", 0, Some(40)),
        ("Write up to 40 words, not sentences.", 0, Some(40)),
        ("Keep it under 40 words.", 0, Some(39)),
        ("Keep it short (fewer than 40 words).", 0, Some(39)),
        ("Write between 40 and 50 words.", 40, Some(50)),
        ("40 to 50 words will do.", 40, Some(50)),
        ("Write exactly 40 words.", 40, Some(40)),
        ("Write less than 40 words (say 20 words).", 0, Some(39)),
        ("Use at least 9 sentences, but less than 60 words.", 0, Some(59)),
    ] {
        let expected = Some(Rule::Words(Bounds { min, max }));
        assert_eq!(rule(words, prompt), expected, "{prompt}");
    }
    for prompt in [
        "Write a long story.",
        "Write a 100-word story.",
        "Write twenty-five words.",
        "Write at least twenty-five words.",
        "Write about 40 words.",
        "I want nothing longer than 40 words.",
        "It must not contain more than 40 words.",
        "Don't use at least 40 words.",
        "Write at least 40 words. Then write at least 50 words.",
        "Each line has at least 4 words.",
        "Write at least 4 words per line.",
        "Include at least 40 keywords.",
        "Write less than 0 words.",
        "Write more\nthan. 40\nwords.",
    ] {
        assert_eq!(rule(words, prompt), None, "{prompt}");
    }
}

#[test]
fn a_constraint_with_one_relation_is_not_read_with_another() {
    let bullets = "detectable_format:number_bullet_lists";
    let exactly = |number| Some(Rule::Bullets(Bounds { min: number, max: Some(number) }));
    assert_eq!(
        rule(bullets, "Use exactly 3 short bullet points:\n* Bullet 1\n* Bullet 2"),
        exactly(3)
    );
    assert_eq!(
        rule(bullets, "Answer in 4 bullets.\n* Bullet point 1\n* Bullet point 2"),
        exactly(4)
    );
    assert_eq!(rule(bullets, "Use at least 3 bullet points."), None);
    assert_eq!(rule(bullets, "Use 3 to 5 bullet points."), None);
    assert_eq!(rule(bullets, "Use 3-5 bullet points."), None);
    let highlights = "detectable_format:number_highlighted_sections";
    let at_least = |min| Some(Rule::Highlights(Bounds { min, max: None }));
    assert_eq!(rule(highlights, "Italicize at least 3 text parts with *."), at_least(3));
    assert_eq!(rule(highlights, "Have 3 bold phrases."), at_least(3));
    assert_eq!(rule(highlights, "Have 5 sections. Highlight each name like *this*."), None);
    assert_eq!(rule(highlights, "Highlight exactly 3 sections."), None);
    let paragraphs = "length_constraints:number_paragraphs";
    assert_eq!(rule(paragraphs, "Write 3 paragraphs."), None);
}

fn item(subcategory: Option<&str>, text: &str) -> Item {
    Item { subcategory: subcategory.map(str::to_owned), ..Item::new("a", text, "own") }
}

#[test]
fn a_score_counts_constraints_and_prompts() {
    let comma = "punctuation:no_comma";
    let both = format!("{comma}+length_constraints:number_words+{comma}");
    let items = [
        item(Some(&both), "Write at least 3 words without a comma."),
        item(Some("keywords:frequency+punctuation:no_comma"), "Say river twice without a comma."),
        item(Some("language:response_language"), "Answer in Welsh."),
        item(None, "Answer."),
    ];
    let items: Vec<&Item> = items.iter().collect();
    let score = IfEval::score(&items, &["no comma", "river river", "a, b", "a, b"]).unwrap();
    assert_eq!((score.num_scored, score.num_followed, score.num_not_scorable), (3, 2, 2));
    assert_eq!((score.share().count, score.share().total), (2, 3));
    assert_eq!((score.prompts.count, score.prompts.total), (1, 2));
    let shares: Vec<(&str, usize, usize)> = score
        .by_instruction
        .iter()
        .map(|(id, share)| (id.as_str(), share.count, share.total))
        .collect();
    assert_eq!(shares, [("length_constraints:number_words", 0, 1), (comma, 2, 2)]);
    let error = IfEval::score(&items, &["one"]).unwrap_err().to_string();
    assert!(error.contains("1 answers to 4 prompts"), "{error}");
}
