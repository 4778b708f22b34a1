//! Settings of the public interface.

use std::path::PathBuf;

use runtime::Common;
use runtime::config::Reader;

use crate::BUILD;

const PORT: u16 = 8000;

/// Settings of the public interface.
#[derive(Debug, Clone)]
pub struct Config {
    /// What all services have.
    pub common: Common,
    /// Folder of the store; shared with the worker.
    pub data_folder: PathBuf,
    /// Attempts that a queued job gets.
    pub max_attempts: u32,
}

impl Config {
    /// Reads the settings.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            common: Common::read(reader, &BUILD, PORT),
            data_folder: reader.text("data.dir", "data").into(),
            max_attempts: reader.integer("queue.max_attempts", 5, 1..=100) as u32,
        }
    }
}
