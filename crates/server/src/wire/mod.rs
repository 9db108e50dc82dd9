//! OpenAI's JSON, in and out. Requests become domain types here, once; nothing behind the edge sees a raw field.

mod fields;
mod messages;
mod request;
mod response;
mod unsupported;

pub(crate) use fields::Fields;
pub(crate) use messages::parse_messages;
pub(crate) use request::{ChatRequest, RequestLimits, SteeringSpec};
pub(crate) use response::{
    ChatCompletion, Choice, ChoiceLogprobs, Chunk, ChunkChoice, Delta, Message, Model, ModelList,
    TokenLogprobEntry, TopLogprob, Usage,
};

/// One value or a list of them, as `stop` and `steering.category` have it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub(crate) fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(value) => vec![value],
            Self::Many(values) => values,
        }
    }
}

impl<T> From<Vec<T>> for OneOrMany<T> {
    fn from(mut values: Vec<T>) -> Self {
        match (values.pop(), values.is_empty()) {
            (Some(value), true) => Self::One(value),
            (Some(value), false) => {
                values.push(value);
                Self::Many(values)
            }
            (None, _) => Self::Many(values),
        }
    }
}
