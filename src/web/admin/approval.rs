//! The approval of a send by a second person: the one act of the operators' pages.

use axum::{
    Extension,
    extract::{Path, State},
    response::Redirect,
};
use serde::{Deserialize, Serialize};

use super::{
    AdminState,
    access::{OwnForm, Visitor},
    issue::edition,
};
use crate::{
    account::Role,
    delivery::control::{self, ControlError},
    report::IssueStatus,
    web::error::{Code, Problem},
};

/// Characters of the longest reason that is kept.
const REASON_MAX: usize = 500;

/// What the page offers to whom, while a send waits for an approval.
#[derive(Serialize)]
pub(super) struct ApprovalForm {
    url: String,
    form_token: String,
    asked_by: String,
    /// Why the visitor cannot approve; then there is no form.
    cannot: Option<&'static str>,
}

/// What stands on the page of an issue that waits for an approval.
pub(super) fn form(status: &IssueStatus, visitor: &Visitor) -> Option<ApprovalForm> {
    if !status.approval.waits {
        return None;
    }
    let asked_by = status.approval.asked_by.clone().unwrap_or_default();
    let cannot = if visitor.session.role < Role::Operator {
        Some("An operator has to approve of it.")
    } else if control::is_same_person(&asked_by, &actor(visitor)) {
        Some("You asked for it: somebody else has to approve of it.")
    } else {
        None
    };
    Some(ApprovalForm {
        url: format!("/issues/{}/{}/approve", status.newsletter, status.number),
        form_token: visitor.form_token.clone(),
        asked_by,
        cannot,
    })
}

fn actor(visitor: &Visitor) -> String {
    format!("web:{}", visitor.session.name)
}

#[derive(Deserialize)]
pub(super) struct Approval {
    #[serde(default)]
    reason: String,
}

/// Approves of a send in the name of the visitor, and goes back to its page.
pub(super) async fn approve(
    State(state): State<AdminState>,
    Extension(visitor): Extension<Visitor>,
    Path((slug, number)): Path<(String, i64)>,
    OwnForm(Approval { reason }): OwnForm<Approval>,
) -> Result<Redirect, Problem> {
    let edition = edition(&state, &slug, number).await?;
    let reason: String = reason.trim().chars().take(REASON_MAX).collect();
    let (actor, window) = (actor(&visitor), state.config.sending.undo_window);
    let by = (actor.as_str(), reason.as_str());
    match control::approve(&state.db, &edition, by, window, state.now()).await {
        Ok(_) => Ok(Redirect::to(&format!("/issues/{slug}/{number}"))),
        Err(ControlError::Database(error)) => Err(error.into()),
        Err(error @ ControlError::OwnSend { .. }) => {
            Err(Problem::new(Code::NotPermitted).saying(error.to_string()))
        }
        Err(error) => Err(Problem::new(Code::WrongState).saying(error.to_string())),
    }
}
