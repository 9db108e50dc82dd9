//! The conditions under which a prompt is asked.

use std::fmt;
use std::str::FromStr;

use skeg_model::ChatMessage;
use skeg_vector_store::Category;

use super::set::ServedPrompt;
use crate::calibrate::SAFETY_SYSTEM_PROMPT;
use crate::error::{Error, Result};

/// What the category header says that asks for no steering.
const NONE: &str = "none";
/// What it says that leaves the category to the server.
const AUTO: &str = "auto";

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServedArm {
    /// Unsteered.
    Unsteered,
    /// The server finds the category.
    Auto,
    /// Every prompt, harmful or not, is steered as this category.
    One(Category),
    /// Harmful prompts are steered as the category that their set says; the others are not asked.
    Oracle,
    /// Unsteered, after [`SAFETY_SYSTEM_PROMPT`].
    SafetyPrompt,
}

impl fmt::Display for ServedArm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsteered => f.write_str(NONE),
            Self::Auto => f.write_str(AUTO),
            Self::One(category) => write!(f, "one:{category}"),
            Self::Oracle => f.write_str("oracle"),
            Self::SafetyPrompt => f.write_str("safety-prompt"),
        }
    }
}

impl FromStr for ServedArm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::Spec(format!(
                "`{text}` is no arm; expected none, auto, oracle, safety-prompt, or one:CATEGORY such as one:fraud_deception"
            ))
        };
        match text {
            NONE => Ok(Self::Unsteered),
            AUTO => Ok(Self::Auto),
            "oracle" => Ok(Self::Oracle),
            "safety-prompt" => Ok(Self::SafetyPrompt),
            other => {
                let slug = other.strip_prefix("one:").ok_or_else(wrong)?;
                Ok(Self::One(Category::parse(slug).map_err(|_| wrong())?))
            }
        }
    }
}

impl ServedArm {
    /// What the category header says; `None` where the prompt is not asked.
    pub(super) fn category(&self, prompt: &ServedPrompt) -> Option<String> {
        match self {
            Self::Unsteered | Self::SafetyPrompt => Some(NONE.to_owned()),
            Self::Auto => Some(AUTO.to_owned()),
            Self::One(category) => Some(category.to_string()),
            Self::Oracle => prompt.category.as_ref().map(ToString::to_string),
        }
    }

    /// What is asked. A system message of the prompt's own comes after the arm's, in one message, since many templates take one.
    pub(super) fn messages(&self, prompt: &ServedPrompt) -> Vec<ChatMessage> {
        let mut messages = prompt.conversation.clone();
        if *self != Self::SafetyPrompt {
            return messages;
        }
        match messages.first_mut() {
            Some(first) if first.role == "system" => {
                first.content = format!("{SAFETY_SYSTEM_PROMPT}\n\n{}", first.content);
            }
            _ => {
                let content = SAFETY_SYSTEM_PROMPT.to_owned();
                messages.insert(0, ChatMessage { role: "system".to_owned(), content });
            }
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(roles: &[&str]) -> ServedPrompt {
        let message =
            |role: &&str| ChatMessage { role: (*role).to_owned(), content: (*role).to_owned() };
        ServedPrompt {
            id: "a".to_owned(),
            text: "text".to_owned(),
            conversation: roles.iter().map(message).collect(),
            is_harmful: true,
            category: None,
        }
    }

    #[test]
    fn arms_are_read_as_they_are_written() {
        for text in ["none", "auto", "one:fraud_deception", "oracle", "safety-prompt"] {
            assert_eq!(text.parse::<ServedArm>().unwrap().to_string(), text);
        }
        for text in ["", "one:", "one", "one:none", "ONE:fraud", "generic"] {
            let error = text.parse::<ServedArm>().unwrap_err().to_string();
            assert!(error.contains("one:CATEGORY"), "{error}");
        }
    }

    #[test]
    fn the_true_category_is_asked_where_there_is_one() {
        let named = ServedPrompt {
            category: Some(Category::parse("fraud_deception").unwrap()),
            ..prompt(&["user"])
        };
        assert_eq!(ServedArm::Oracle.category(&named).as_deref(), Some("fraud_deception"));
        assert_eq!(ServedArm::Oracle.category(&prompt(&["user"])), None);
        assert_eq!(ServedArm::SafetyPrompt.category(&named).as_deref(), Some("none"));
    }

    #[test]
    fn the_safety_prompt_is_the_one_system_message() {
        let arm = ServedArm::SafetyPrompt;
        let roles = |messages: &[ChatMessage]| {
            messages.iter().map(|message| message.role.clone()).collect::<Vec<_>>()
        };
        let messages = arm.messages(&prompt(&["user", "assistant", "user"]));
        assert_eq!(roles(&messages), ["system", "user", "assistant", "user"]);
        assert_eq!(messages[0].content, SAFETY_SYSTEM_PROMPT);
        let messages = arm.messages(&prompt(&["system", "user"]));
        assert_eq!(roles(&messages), ["system", "user"]);
        assert_eq!(messages[0].content, format!("{SAFETY_SYSTEM_PROMPT}\n\nsystem"));
        assert_eq!(ServedArm::Auto.messages(&prompt(&["system", "user"])).len(), 2);
    }
}
