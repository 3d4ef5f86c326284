//! What a member says about itself.

use super::client::Etcd3;
use super::error::EtcdError;

impl Etcd3 {
    /// The version of the member that is talked to, as it says: `3.4.23`.
    ///
    /// # Errors
    /// When it does not answer, or may not tell us.
    pub async fn version(&self) -> Result<String, EtcdError> {
        let status = self
            .call("ask the version of", "the member", |session| async move {
                session.client.maintenance_client().status().await
            })
            .await?;
        Ok(status.version().to_owned())
    }
}
