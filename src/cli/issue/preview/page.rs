//! The page around a preview: which views there are, and the issue in one of them.

use std::fmt::Write as _;

use super::serve::{Now, View};
use crate::{diagnostic::Level, issue::render::escape};

/// Asks for changes and shows the page anew at each, where it was scrolled to.
pub(super) const RELOAD: &str = "\
const version = document.documentElement.dataset.version;
const wait = async () => {
  for (;;) {
    try {
      const answer = await fetch('/version?after=' + version, { cache: 'no-store' });
      if (answer.ok && (await answer.text()) !== version) return location.reload();
    } catch {
      await new Promise((again) => setTimeout(again, 2000));
    }
  }
};
wait();
";

const STYLE: &str = "\
:root { color-scheme: light; font: 16px/1.4 system-ui, sans-serif; color: #1c2733; }
body { margin: 0; background: #e8ecf0; min-height: 100vh; display: flex; flex-direction: column; }
header { background: #fff; padding: .75rem 1rem; border-bottom: 1px solid #b9c3cd; }
h1 { font-size: 1.1rem; margin: 0; }
p { margin: .1rem 0 .5rem; color: #4a5968; }
nav { display: flex; flex-wrap: wrap; gap: .25rem; }
nav a { padding: .35rem .75rem; border: 1px solid #8796a5; border-radius: .3rem; color: inherit; \
text-decoration: none; }
nav a[aria-current] { background: #1c2733; color: #fff; font-weight: 600; }
nav a:focus-visible { outline: 3px solid #1f5fbf; outline-offset: 2px; }
iframe { border: 0; background: #fff; width: 100%; flex: 1; min-height: 80vh; }
iframe.phone { width: 375px; height: 812px; flex: none; margin: 1rem auto; \
border: 8px solid #1c2733; border-radius: 1.5rem; }
iframe.dark { background: #111; }
pre { background: #fff; margin: 1rem; padding: 1rem; overflow: auto; white-space: pre-wrap; \
overflow-wrap: anywhere; }
";

const VIEWS: &[(View, &str, &str)] = &[
    (View::Desktop, "desktop", "Desktop"),
    (View::Phone, "phone", "Phone"),
    (View::Dark, "dark", "Dark"),
    (View::Text, "text", "Text"),
    (View::Source, "source", "Source"),
    (View::Findings, "findings", "Findings"),
];

/// The page with the issue in one view.
pub(super) fn frame(now: &Now, view: View) -> String {
    let (subject, preheader) = match &now.shown {
        Ok(shown) => (shown.subject.as_str(), shown.preheader.as_str()),
        Err(_) => ("This issue cannot be shown", ""),
    };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\" data-version=\"{}\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n\
         <script src=\"/reload.js\" defer></script>\n</head>\n<body>\n<header>\n<h1>{}</h1>\n<p>{}</p>\n",
        now.version,
        escape(subject),
        escape(subject),
        escape(preheader)
    );
    navigation(&mut page, now, view);
    page.push_str("</header>\n");
    content(&mut page, now, view);
    page.push_str("</body>\n</html>\n");
    page
}

fn navigation(page: &mut String, now: &Now, view: View) {
    page.push_str("<nav aria-label=\"Views\">");
    for (of, name, title) in VIEWS {
        let current = if *of == view { " aria-current=\"page\"" } else { "" };
        let count = if *of == View::Findings { findings_in_words(now) } else { String::new() };
        let _ = write!(page, "<a href=\"/?view={name}\"{current}>{title}{count}</a>");
    }
    page.push_str("</nav>\n");
}

fn findings_in_words(now: &Now) -> String {
    let Ok(shown) = &now.shown else { return String::new() };
    let errors = shown.diagnostics.iter().filter(|found| found.level == Level::Error).count();
    match (errors, shown.diagnostics.len() - errors) {
        (0, 0) => " (none)".to_owned(),
        (errors, warnings) => format!(" ({errors} errors, {warnings} warnings)"),
    }
}

fn content(page: &mut String, now: &Now, view: View) {
    let pre = |page: &mut String, text: &str| {
        let _ = writeln!(page, "<pre>{}</pre>", escape(text));
    };
    let shown = match &now.shown {
        Ok(shown) => shown,
        Err(why) => return pre(page, why),
    };
    match view {
        View::Text => pre(page, &shown.text),
        View::Source => pre(page, &shown.message),
        View::Findings => pre(page, &shown.findings),
        View::Desktop | View::Phone | View::Dark => {
            let name =
                VIEWS.iter().find(|(of, ..)| *of == view).map_or("desktop", |(_, name, _)| name);
            // An empty sandbox: no scripts, no forms, no way out of the frame.
            let _ = writeln!(
                page,
                "<iframe class=\"{name}\" sandbox=\"\" title=\"The mail\" src=\"/mail?view={name}\">\
                 </iframe>"
            );
        }
    }
}

/// The mail as a client that is set dark shows it: its dark rules hold whatever the browser is set
/// to.
pub(super) fn in_the_dark(html: &str) -> String {
    html.replace("@media (prefers-color-scheme: dark)", "@media all")
        .replace("@media (prefers-color-scheme:dark)", "@media all")
}
