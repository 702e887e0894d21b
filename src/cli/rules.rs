//! `postrider rules`: how replies are read. `test` explains one: whose fault it finds, whether it lasts,
//! which rule decides, what follows for the copy and for everybody else.

use std::path::Path;

use clap::Subcommand;
use serde::Serialize;

use super::{
    context::{load_config, tables},
    output::{self, Format, Table, span},
};
use crate::{
    bounce::classify::{self, Action, Classification, Deed, Evidence, Rule, Rules, Scope},
    config::Config,
    db::state::CopyState,
    delivery::policy::{self, Schedule},
    provider::{ProviderId, Providers},
    smtp::{
        client::{Phase, Verdict},
        reply::{EnhancedCode, Reply},
    },
    timestamp::Timestamp,
};

/// What can be asked about rules.
#[derive(Debug, Subcommand)]
pub(super) enum RulesCommand {
    /// Explain what a reply would do
    Test(TestArgs),
    /// List the rules in the order in which they are tried
    List(Format),
}

/// What `rules test` takes.
#[derive(Debug, clap::Args)]
pub(super) struct TestArgs {
    /// The reply, such as "421 4.7.0 Try again later"
    reply: String,
    /// The provider of the address, by its name in the provider table
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// The step that was refused
    #[arg(long, value_enum, default_value_t = Step::Rcpt)]
    phase: Step,
    #[command(flatten)]
    format: Format,
}

/// The steps at which servers refuse.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Step {
    Greeting,
    Ehlo,
    Auth,
    Mail,
    Rcpt,
    Data,
    Dot,
}

impl Step {
    const fn phase(self) -> Phase {
        match self {
            Self::Greeting => Phase::Greeting,
            Self::Ehlo => Phase::Ehlo,
            Self::Auth => Phase::Auth,
            Self::Mail => Phase::MailFrom,
            Self::Rcpt => Phase::RcptTo,
            Self::Data => Phase::Data,
            Self::Dot => Phase::Dot,
        }
    }
}

/// Runs one of the commands; none needs the data.
pub(super) fn run(config: Option<&Path>, command: RulesCommand) -> anyhow::Result<()> {
    let config = load_config(config)?;
    let providers = tables(&config)?;
    match command {
        RulesCommand::Test(args) => test(&config, &providers, &args),
        RulesCommand::List(format) => list(format),
    }
}

/// What a reply would do.
#[derive(Debug, Serialize)]
struct Explained {
    code: Option<u16>,
    enhanced: Option<String>,
    #[serde(flatten)]
    class: Classification,
    action: Option<Action>,
    scope: Option<Scope>,
    /// What becomes of the copy; none where no server said it to our face.
    copy: Option<&'static str>,
    /// How long until the next try.
    retry_after_s: Option<u64>,
    /// The whole in words.
    says: Vec<String>,
}

fn test(config: &Config, providers: &Providers, args: &TestArgs) -> anyhow::Result<()> {
    let provider = match &args.provider {
        None => ProviderId::OTHER,
        Some(name) => providers.by_name(name).ok_or_else(|| {
            let known: Vec<_> = providers.iter().map(|entry| entry.name.as_str()).collect();
            anyhow::anyhow!("there is no provider `{name}`; those are: {}", known.join(", "))
        })?,
    };
    let explained = explain(config, provider, args.phase.phase(), &args.reply)?;
    if args.format.json {
        return Ok(output::json(&explained)?);
    }
    for line in &explained.says {
        output::line(line)?;
    }
    Ok(())
}

fn explain(
    config: &Config,
    provider: ProviderId,
    phase: Phase,
    said: &str,
) -> anyhow::Result<Explained> {
    let said = said.trim();
    let digits = said.get(..3).filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()));
    let code: Option<u16> = digits.and_then(|code| code.parse().ok());
    let rest = code.map_or(said, |_| said[3..].trim_start_matches(['-', ' ']));
    anyhow::ensure!(
        code.is_none_or(|code| (400..600).contains(&code)),
        "a reply that refuses begins with 4 or 5; without a code the words alone are read"
    );
    let enhanced = EnhancedCode::at_start_of(rest);
    let class = classify::classify(&Evidence {
        phase: code.map(|_| phase),
        code,
        enhanced,
        text: rest,
        provider,
    });
    let now = Timestamp::now();
    let schedule = Schedule {
        delays: config.sending.retry_delays.as_slice().into(),
        expires_at: now.plus(config.sending.time_to_live),
    };
    let decision = code.map(|code| {
        let verdict = Verdict::Refused { phase, reply: Reply::new(code, rest) };
        policy::decide(&verdict, 0, true, provider, &schedule, now, 0.0)
    });
    let retry_after = decision.as_ref().and_then(|decision| Some(decision.due_at?.since(now)));
    let mut says = vec![
        format!("class:   {}", policy::class_name(&class)),
        format!("rule:    {}", class.rule),
        format!("reason:  {}", word(&class.reason)),
        format!("grounds: {}", word(&class.grounds)),
    ];
    let copy = decision.as_ref().map(|decision| match (decision.state, retry_after) {
        (CopyState::Rejected, _) => {
            says.push("copy:    refused for good".to_owned());
            "rejected"
        }
        (_, Some(wait)) => {
            says.push(format!("copy:    tried again in {}", span(wait)));
            "deferred"
        }
        _ => "expired",
    });
    if class.is_hard() {
        says.push("address: suppressed, it does not exist".to_owned());
    }
    says.push(format!("action:  {}", action_in_words(class.action)));
    Ok(Explained {
        code,
        enhanced: enhanced.map(|code| code.to_string()),
        action: class.action.map(|(action, _)| *action),
        scope: class.action.map(|(_, scope)| scope),
        class,
        copy,
        retry_after_s: retry_after.map(|wait| wait.as_secs()),
        says,
    })
}

/// A value as files and JSON write it.
fn word(value: &impl Serialize) -> String {
    let json = serde_json::to_value(value).unwrap_or_default();
    json.as_str().unwrap_or_default().to_owned()
}

fn action_in_words(action: Option<(&Action, Scope)>) -> String {
    let Some((action, scope)) = action else {
        return "none beyond the copy; it counts towards the breaker if it is refused for now"
            .to_owned();
    };
    let whom = match scope {
        Scope::Provider => "the provider at that relay",
        Scope::Relay => "the whole relay",
    };
    let what = match action.deed {
        Deed::Throttle => format!("one connection for {whom} for {}", span(action.lasts)),
        Deed::Open => format!("nothing for {whom} for {}", span(action.lasts)),
        Deed::Halt => "the issue is halted".to_owned(),
    };
    let replies = match action.threshold {
        1 => "at once".to_owned(),
        count => format!("after {count} such replies within {}", span(action.within)),
    };
    format!("{what}, {replies}")
}

fn list(format: Format) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Listed<'a> {
        name: &'a str,
        fault: String,
        reason: String,
        providers: &'a [String],
        action: Option<Action>,
        scope: Scope,
    }
    let listed = Rules::current().iter().map(|rule: &Rule| Listed {
        name: &rule.name,
        fault: word(&rule.fault),
        reason: word(&rule.reason),
        providers: &rule.provider,
        action: rule.action,
        scope: rule.scope,
    });
    if format.json {
        return Ok(output::json(&listed.collect::<Vec<_>>())?);
    }
    let mut table = Table::new(&["rule", "fault", "reason", "providers", "action"]);
    for rule in listed {
        let providers =
            if rule.providers.is_empty() { "all".to_owned() } else { rule.providers.join(", ") };
        let action = rule.action.as_ref().map(|action| action_in_words(Some((action, rule.scope))));
        table.row([
            rule.name.to_owned(),
            rule.fault,
            rule.reason,
            providers,
            action.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table.print("")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(provider: &str, phase: Phase, said: &str) -> Vec<String> {
        let provider = Providers::embedded().by_name(provider).unwrap();
        explain(&Config::default(), provider, phase, said).unwrap().says
    }

    #[test]
    fn a_reply_is_explained() {
        let busy = "421-4.7.28 Gmail has detected an unusual rate of unsolicited mail";
        assert_eq!(
            says("google", Phase::Dot, busy),
            [
                "class:   rate.transient",
                "rule:    google-rate",
                "reason:  too-fast",
                "grounds: wording",
                "copy:    tried again in 5 min",
                "action:  nothing for the provider at that relay for 30 min, after 3 such replies \
                 within 10 min",
            ]
        );
        let gone = says("other", Phase::RcptTo, "550 5.1.1 No such user");
        assert!(gone.contains(&"copy:    refused for good".to_owned()), "{gone:?}");
        assert!(gone.contains(&"address: suppressed, it does not exist".to_owned()), "{gone:?}");
        let config = Config::default();
        assert!(explain(&config, ProviderId::OTHER, Phase::Dot, "250 fine").is_err());
        let words = explain(&config, ProviderId::OTHER, Phase::Dot, "Mailbox full").unwrap();
        assert_eq!((words.copy, words.class.rule), (None, "mailbox-full"));
    }
}
