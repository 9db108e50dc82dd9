//! The Jinja dialect, where templates come from, and what stops a hostile one.

use super::strftime::strftime;
use super::{ChatMessage, ChatTemplate};

fn message(role: &str, content: &str) -> ChatMessage {
    ChatMessage { role: role.to_owned(), content: content.to_owned() }
}

fn render(source: &str, messages: &[ChatMessage]) -> String {
    let template = ChatTemplate::compile(source, Some("<s>".to_owned()), None).unwrap();
    template.render(messages, true).unwrap()
}

fn render_error(source: &str) -> String {
    let template = ChatTemplate::compile(source, None, None).unwrap();
    template.render(&[message("user", "secret words")], false).unwrap_err().to_string()
}

#[test]
fn blocks_on_their_own_lines_leave_no_lines() {
    let source = "{% for message in messages %}\n    {% if true %}\n{{ message.role }}\n    {% endif %}\n{% endfor %}";
    assert_eq!(
        render(source, &[message("user", "x"), message("assistant", "y")]),
        "user\nassistant\n"
    );
}

#[test]
fn python_methods_and_none_work() {
    let source = "{{ messages[0]['content'].strip().upper() }}{{ tools is none }}{{ eos_token }}{{ bos_token }}";
    assert_eq!(render(source, &[message("user", " hi ")]), "HITrue<s>");
}

#[test]
fn loops_can_be_left_and_turns_skipped() {
    let source = "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}\
                  {% if loop.index == 3 %}{% break %}{% endif %}{% endfor %}";
    let messages: Vec<ChatMessage> = ["system", "user", "assistant", "user"]
        .iter()
        .map(|role| message(role, &role[..1]))
        .collect();
    assert_eq!(render(source, &messages), "ua");
}

#[test]
fn content_is_not_escaped() {
    let content = "<b> & \" ' {{ 1 }}";
    assert_eq!(render("{{ messages[0].content }}", &[message("user", content)]), content);
}

#[test]
fn tojson_writes_as_python_does() {
    let messages = [message("user", "<é>\n")];
    assert_eq!(
        render("{{ messages | tojson }}", &messages),
        r#"[{"role": "user", "content": "<é>\n"}]"#
    );
    assert_eq!(
        render("{{ {'a': [1, 2], 'b': []} | tojson(indent=2) }}", &messages),
        "{\n  \"a\": [\n    1,\n    2\n  ],\n  \"b\": []\n}"
    );
}

#[test]
fn raised_errors_keep_the_templates_words() {
    let error = render_error("{{ raise_exception('roles must alternate') }}");
    assert_eq!(error, "chat template: the template refused the messages: roles must alternate");
}

#[test]
fn an_endless_rendering_is_stopped() {
    let steps = render_error(
        "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}",
    );
    assert!(steps.contains("steps"), "{steps}");
    let bytes = render_error("{{ 'x' * 4000000000 }}");
    assert!(bytes.contains("steps"), "{bytes}");
}

#[test]
fn endless_recursion_is_an_error() {
    render_error("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}");
}

#[test]
fn a_template_that_does_not_compile_says_where() {
    let error = ChatTemplate::compile("{% for %}", None, None).unwrap_err().to_string();
    assert!(error.contains("does not compile") && error.contains("chat_template:1"), "{error}");
    assert!(ChatTemplate::compile(&" ".repeat((1 << 20) + 1), None, None).is_err());
}

#[test]
fn a_missing_template_says_what_to_do() {
    let error = ChatTemplate::missing().to_string();
    assert!(
        error.starts_with("chat template:") && error.contains("chat_template.jinja"),
        "{error}"
    );
}

#[test]
fn dates_are_those_of_the_calendar() {
    let check = |seconds, expected: &str| {
        assert_eq!(strftime("%a %d %b %Y %H:%M:%S", seconds).unwrap(), expected);
    };
    check(0, "Thu 01 Jan 1970 00:00:00");
    check(951_782_400, "Tue 29 Feb 2000 00:00:00");
    check(1_709_251_199, "Thu 29 Feb 2024 23:59:59");
    check(4_107_542_400, "Mon 01 Mar 2100 00:00:00");
    assert_eq!(
        strftime("%A %B %y %m %F %T %%", 0).unwrap(),
        "Thursday January 70 01 1970-01-01 00:00:00 %"
    );
    assert!(strftime("%Q", 0).is_err() && strftime("%", 0).is_err());
    assert_eq!(render("{{ strftime_now('%Y') | length }}", &[]), "4");
}

#[test]
fn a_folder_prefers_the_jinja_file_and_then_the_named_default() {
    let folder = tempfile::tempdir().unwrap();
    let rendered = || {
        let template = ChatTemplate::from_folder(folder.path()).unwrap();
        template.map(|template| template.render(&[], false).unwrap())
    };
    assert_eq!(rendered(), None);
    let config = folder.path().join("tokenizer_config.json");
    std::fs::write(
        &config,
        r#"{"bos_token": {"content": "<s>"}, "chat_template": "one{{ bos_token }}"}"#,
    )
    .unwrap();
    assert_eq!(rendered().as_deref(), Some("one<s>"));
    std::fs::write(
        &config,
        r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#,
    )
    .unwrap();
    assert_eq!(rendered().as_deref(), Some("d"));
    std::fs::write(folder.path().join("chat_template.jinja"), "file").unwrap();
    assert_eq!(rendered().as_deref(), Some("file"));
    std::fs::write(&config, r#"{"chat_template": [{"name": "rag", "template": "r"}]}"#).unwrap();
    let error = ChatTemplate::from_folder(folder.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json") && error.contains("rag"), "{error}");
}
