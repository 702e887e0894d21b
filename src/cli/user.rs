//! `postrider user`: who may log in to the operators' pages.

use std::path::{Path, PathBuf};

use super::{
    Context,
    context::actor,
    output::{Format, Table, json, say, time},
    password::NewPassword,
};
use crate::{
    account::{self, Passwords, Role},
    timestamp::Timestamp,
};

/// What can be done with users.
#[derive(Debug, clap::Subcommand)]
pub(super) enum UserCommand {
    /// Let somebody log in
    Add(AddArgs),
    /// List who may log in
    List(Format),
    /// Give somebody another password, which ends their logins; a disabled user can log in again
    Password(PasswordArgs),
    /// Keep somebody from logging in, at once
    Disable(DisableArgs),
}

/// What `user add` takes.
#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    /// The name they log in with
    name: String,
    /// What they may do: viewer, editor or operator
    #[arg(long, value_parser = role)]
    role: Role,
    /// A file whose first line is the password [default: typed, or made up and shown once]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// What `user password` takes.
#[derive(Debug, clap::Args)]
pub(super) struct PasswordArgs {
    /// Whose
    name: String,
    /// A file whose first line is the password [default: typed, or made up and shown once]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// What `user disable` takes.
#[derive(Debug, clap::Args)]
pub(super) struct DisableArgs {
    /// Who
    name: String,
}

fn role(word: &str) -> Result<Role, String> {
    Role::by_name(word).ok_or_else(|| {
        let words: Vec<_> = Role::ALL.iter().map(|role| role.as_str()).collect();
        format!("one of {}", words.join(", "))
    })
}

/// Runs one of the commands.
pub(super) async fn run(config: Option<&Path>, command: UserCommand) -> anyhow::Result<()> {
    let context = Context::open(config).await?;
    match command {
        UserCommand::Add(args) => {
            add(&context, &args.name, args.role, args.password_file.as_deref()).await?;
        }
        UserCommand::List(format) => list(&context, format).await?,
        UserCommand::Password(args) => password(&context, args).await?,
        UserCommand::Disable(args) => {
            account::disable(&context.db, &args.name, &actor(), Timestamp::now()).await?;
            say(format!("`{}` cannot log in any more", args.name));
        }
    }
    context.db.close().await;
    Ok(())
}

/// Adds a user, and shows their password if it was made up.
pub(super) async fn add(
    context: &Context,
    name: &str,
    role: Role,
    password_file: Option<&Path>,
) -> anyhow::Result<()> {
    let password = NewPassword::ask(password_file, name).await?;
    let passwords = Passwords::default();
    let now = Timestamp::now();
    account::create(&context.db, &passwords, name, &password.text, role, &actor(), now).await?;
    say(format!("`{name}` may log in as {role}"));
    Ok(password.show(name)?)
}

async fn password(context: &Context, args: PasswordArgs) -> anyhow::Result<()> {
    let password = NewPassword::ask(args.password_file.as_deref(), &args.name).await?;
    let (passwords, now) = (Passwords::default(), Timestamp::now());
    let name = &args.name;
    account::set_password(&context.db, &passwords, name, &password.text, &actor(), now).await?;
    say(format!("`{name}` has another password; whoever was logged in by that name is not"));
    Ok(password.show(name)?)
}

async fn list(context: &Context, format: Format) -> anyhow::Result<()> {
    let users = account::list(&context.db).await?;
    if format.json {
        return Ok(json(&users)?);
    }
    let mut table = Table::new(&["name", "role", "since", "state"]);
    for user in &users {
        let state = user
            .disabled_at
            .map_or_else(|| "may log in".to_owned(), |at| format!("disabled since {}", time(at)));
        table.row([user.name.as_str(), user.role.as_str(), &time(user.created_at), &state]);
    }
    Ok(table.print("nobody may log in; add somebody with `postrider user add`")?)
}
