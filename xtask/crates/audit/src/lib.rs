//! What is wrong with images as they were built, with service and environment files, and with GitHub Actions workflows. It
//! judges what it is given and changes nothing; waivers, policies and output are its callers'. Invariant: whatever the bytes of
//! an input, the answer is findings or an error, in bounded time and memory.

mod configuration;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod image;
mod rules;
mod secret;
mod workflow;
mod yaml;

pub use configuration::configuration;
pub use image::{ImagePolicy, image};
pub use rules::{Definition, definitions, reference};
pub use workflow::workflows;
