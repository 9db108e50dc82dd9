//! skeg-lab: extraction and evaluation of category-wise steering vectors (arXiv 2410.01174).
//!
//! The offline half of the method. [`read_data`] reads data files, a [`calibrate::Recipe`] or a caller's own
//! [`extract::ExtractSpec`] says what is compared with what, [`extract::extract`] captures activations on the
//! kernels that serve and takes differences of means, [`calibrate::calibrate`] finds where and how strongly the vectors act
//! best and proves it, and [`study::study`] compares them with the paper's variants and with controls.
//!
//! Architecture invariants: no async function and no tokio type in the public interface; no text from a
//! data set and no model answer is written to a file, only figures; the same data, model and binary give
//! the same bytes.

pub mod calibrate;
mod category;
mod contrast;
pub mod data;
mod disk_cache;
mod divide;
mod error;
pub mod evaluate;
pub mod exchange;
pub mod experiment;
pub mod extract;
pub mod figures;
pub mod html;
pub mod improve;
pub mod judge;
mod kept_likelihood;
pub mod likelihood;
mod logistic;
pub mod model_words;
mod numbers;
pub mod probe;
mod progress;
pub mod served;
pub mod study;
mod table;
mod tensor_file;

pub use category::{category_of_catqa_name, catqa_categories};
pub use contrast::{ContrastSet, ContrastTexts};
pub use data::{DataSet, Item, ReadOptions, read_data};
pub use disk_cache::DiskCache;
pub use divide::{Divided, Shares};
pub use error::{Error, Place, Result};
pub use kept_likelihood::KeptLikelihood;
pub use progress::{NoProgress, Progress};
pub use table::least_to_most;
