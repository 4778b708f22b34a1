//! Whether the engine starts a container again by itself, decided after it was made.

use bollard::models::ContainerUpdateBody;

use crate::engine::{Engine, QUICK, check_name};
use crate::error::Result;
use crate::spec::Restart;

impl Engine {
    /// From now on the engine starts the container again as `restart` says. One that runs goes on.
    ///
    /// # Errors
    /// When there is no such container, or the engine refuses.
    pub fn set_restart(&self, container: &str, restart: Restart) -> Result<()> {
        let what = format!("decide whether the container {container} is started again");
        check_name(&what, container)?;
        let body =
            ContainerUpdateBody { restart_policy: Some(restart.lower()), ..ContainerUpdateBody::default() };
        self.call(&what, QUICK, self.docker().update_container(container, body))
    }
}
