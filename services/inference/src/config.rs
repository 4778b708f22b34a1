//! Settings of the inference service.

use std::time::Duration;

use runtime::Common;
use runtime::config::Reader;

use crate::BUILD;

const PORT: u16 = 8001;

/// Settings of the inference service.
#[derive(Debug, Clone)]
pub struct Config {
    /// What all services have.
    pub common: Common,
    /// Maps that are analysed at the same time.
    pub concurrency: usize,
    /// How long a request waits for its turn before it is answered 503.
    pub wait: Duration,
}

impl Config {
    /// Reads the settings.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            common: Common::read(reader, &BUILD, PORT),
            concurrency: reader.integer("engine.concurrency", 2, 1..=256) as usize,
            wait: reader.milliseconds("engine.wait_ms", 2_000, 0..=60_000),
        }
    }
}
