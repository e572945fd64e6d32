//! Connections for whatever is not measured to the microsecond.

use anyhow::{Context as _, Result};
use futures::future::poll_fn;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};

/// Opens a connection; the second part is signalled at each notification it gets.
pub async fn connect(config: &Config) -> Result<(Client, Arc<Notify>)> {
    let (client, mut connection) = config.connect(NoTls).await.context("cannot connect to the database")?;
    let wake = Arc::new(Notify::new());
    let signal = Arc::clone(&wake);
    // Ends with the connection: its errors reach whoever waits for an answer.
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if matches!(message, AsyncMessage::Notification(_)) {
                signal.notify_one();
            }
        }
    });
    Ok((client, wake))
}
