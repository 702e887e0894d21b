//! Importing subscribers from CSV: for people who gave their consent elsewhere, which the importer
//! has to state.
//!
//! The file is read as a stream: `rows` turns it into batches on a thread of its own, `apply` writes
//! each batch in one transaction. Memory stays the same whatever the file's size, and other writers
//! get their turn between batches. An import never brings back anybody who left, bounced,
//! complained, was erased, or has yet to confirm, and it takes no role accounts: each of them is a
//! line in the list of refused rows.

mod apply;
mod rows;

use std::{fmt, io::Read};

use serde::Serialize;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

pub use rows::Layout;
use rows::{Batch, Refused};

use super::suppression;
use crate::{
    audit,
    db::{Db, state::SubscriptionState},
    id::NewsletterId,
    provider::Providers,
    timestamp::Timestamp,
    token::Keyring,
};

/// Rows of a batch, which is written in one transaction: large enough that the cost of a commit and
/// of looking through an index in order is shared, small enough that others wait half a second.
const BATCH_ROWS: usize = 20_000;

/// What is imported, and how.
#[derive(Debug, Clone)]
pub struct Import {
    /// To which newsletter.
    pub newsletter: NewsletterId,
    /// The file's name, for the record.
    pub file: String,
    /// Where and how these people gave their consent, in the importer's words.
    pub consent_source: String,
    /// Who imports.
    pub actor: String,
    /// Whether to find out what would happen, and change nothing.
    pub dry_run: bool,
    /// What separates the cells: `,`, `;` or a tab.
    pub delimiter: u8,
    /// Columns besides `address`, `name` and `confirmed_at` that are kept as attributes.
    pub attributes: Vec<String>,
}

/// Why a row was not imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// It cannot be read as a row of text.
    Unreadable,
    /// Its address is not one.
    Address,
    /// Its `confirmed_at` is not a time, or is in the future.
    Time,
    /// Nobody's own mailbox.
    RoleAccount,
    /// The address came before in the same file.
    Repeated,
    /// It must not be mailed.
    Suppressed(suppression::Reason),
    /// It is there already, in this state.
    Standing(SubscriptionState),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str("unreadable"),
            Self::Address => f.write_str("address"),
            Self::Time => f.write_str("confirmed_at"),
            Self::RoleAccount => f.write_str("role_account"),
            Self::Repeated => f.write_str("repeated"),
            Self::Suppressed(reason) => write!(f, "suppressed_{reason}"),
            Self::Standing(SubscriptionState::Active) => f.write_str("already_subscribed"),
            Self::Standing(state) => f.write_str(state.as_str()),
        }
    }
}

/// How far an import has come, and in the end what it did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Rows read, the head not counted.
    pub rows: u64,
    /// Subscriptions that began (that would begin, in a dry run).
    pub added: u64,
    /// Rows that were refused, by [`Refusal`].
    pub refused: std::collections::BTreeMap<String, u64>,
    /// Columns of the file that were not used.
    pub ignored_columns: Vec<String>,
}

/// Why an import ended early. Batches that were written before stay.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Nothing says where consent was given.
    #[error("say where these people gave their consent: it is kept as evidence for each of them")]
    NoConsentSource,
    /// The head has no column of addresses.
    #[error(
        "the first line names no column `address` (or `email`); it has: {}", found.join(", ")
    )]
    NoAddressColumn {
        /// The columns there are.
        found: Vec<String>,
    },
    /// A row is longer than any list needs; a quote that is never closed, most likely.
    #[error("line {line}: the row is longer than {} KB; is a quote not closed?", rows::ROW_OCTETS_MAX / 1024)]
    RowTooLong {
        /// Where it begins.
        line: u64,
    },
    /// The file cannot be read any further.
    #[error("line {line}: the file cannot be read: {source}")]
    Read {
        /// About where.
        line: u64,
        /// What went wrong.
        source: csv::Error,
    },
    /// The list of refused rows cannot be written.
    #[error("the list of refused rows cannot be written: {0}")]
    Refusals(std::io::Error),
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The thread that reads the file ended without a word.
    #[error("the reading of the file was interrupted")]
    Interrupted,
}

/// Imports a file. Refused rows go to `refusals` as CSV (`line,reason,address`); `progress` is called
/// after every batch.
pub async fn import(
    db: &Db,
    (keyring, providers): (&Keyring, &Providers),
    what: &Import,
    file: impl Read + Send + 'static,
    refusals: &mut (impl AsyncWrite + Unpin),
    mut progress: impl FnMut(&Report),
    now: Timestamp,
) -> Result<Report, ImportError> {
    if what.consent_source.trim().is_empty() {
        return Err(ImportError::NoConsentSource);
    }
    let (to_apply, mut batches) = mpsc::channel(1);
    let reading = rows::Reading {
        keyring: keyring.clone(),
        providers: providers.clone(),
        delimiter: what.delimiter,
        attributes: what.attributes.clone(),
        now,
    };
    let reader = tokio::task::spawn_blocking(move || reading.run(file, &to_apply));
    let mut report = Report::default();
    refusals.write_all(b"line,reason,address\n").await.map_err(ImportError::Refusals)?;
    let mut applying = apply::Applying::begin(db, what, now).await?;
    while let Some(batch) = batches.recv().await {
        let Batch { rows, mut refused, read } = batch;
        report.rows += read;
        let added = applying.apply(rows, &mut refused).await?;
        report.added += added;
        for row in &refused {
            *report.refused.entry(row.why.to_string()).or_default() += 1;
        }
        write_refusals(refusals, &mut refused).await.map_err(ImportError::Refusals)?;
        progress(&report);
    }
    refusals.flush().await.map_err(ImportError::Refusals)?;
    let layout = reader.await.map_err(|_| ImportError::Interrupted)??;
    report.ignored_columns = layout.ignored;
    if !what.dry_run {
        record(db, what, &report, now).await?;
    }
    Ok(report)
}

async fn record(
    db: &Db,
    what: &Import,
    report: &Report,
    now: Timestamp,
) -> Result<(), ImportError> {
    let detail = format!("{} rows, {} added", report.rows, report.added);
    let act = audit::Act {
        actor: &what.actor,
        action: "subscriber.import",
        target: &what.file,
        detail: &detail,
    };
    let mut tx = db.begin().await?;
    audit::record(&mut tx, act, now).await?;
    tx.commit().await?;
    Ok(())
}

/// Appends refused rows, in the order of the file.
async fn write_refusals(
    out: &mut (impl AsyncWrite + Unpin),
    refused: &mut [Refused],
) -> std::io::Result<()> {
    refused.sort_by_key(|row| row.line);
    for chunk in refused.chunks(256) {
        let mut lines = csv::Writer::from_writer(Vec::new());
        for row in chunk {
            let (line, why) = (row.line.to_string(), row.why.to_string());
            lines.write_record([line.as_str(), &why, &row.address])?;
        }
        let octets = lines.into_inner().map_err(csv::IntoInnerError::into_error)?;
        out.write_all(&octets).await?;
    }
    Ok(())
}
