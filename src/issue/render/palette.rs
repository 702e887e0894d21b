//! The colours of a mail, light and dark, from one accent colour.
//!
//! Whatever accent a newsletter chooses, text in it is made dark or light enough to be read: every
//! pair of text and ground has a contrast of at least 4.5:1 (WCAG 2.2, 1.4.3).

use serde::Serialize;

/// The least contrast of text on its ground.
const CONTRAST_MIN: f64 = 4.5;

/// A colour in sRGB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Colour(u8, u8, u8);

/// The colours of one mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mode {
    /// Behind everything.
    pub page: String,
    /// Behind the text.
    pub card: String,
    /// Behind sponsor messages and code.
    pub tint: String,
    /// Lines.
    pub rule: String,
    /// Text.
    pub text: String,
    /// Text of less weight.
    pub muted: String,
    /// Links.
    pub link: String,
    /// Behind a button.
    pub button: String,
    /// Text on a button.
    pub button_text: String,
}

/// The colours of a mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Palette {
    /// On a light ground.
    pub light: Mode,
    /// On a dark ground.
    pub dark: Mode,
}

/// The accent of a newsletter that chose none.
pub const ACCENT_DEFAULT: &str = "#0b5fa5";

impl Palette {
    /// The palette around `accent`; `None` when it is no colour of the form `#rrggbb`.
    pub fn new(accent: &str) -> Option<Self> {
        let accent = Colour::parse(accent)?;
        Some(Self {
            light: mode(
                accent,
                &["#eef1f4", "#ffffff", "#f3f6f9", "#d8dfe6", "#1b2733", "#51606f"],
            ),
            dark: mode(accent, &["#0e1319", "#161d25", "#202a35", "#34414f", "#e6ebf0", "#a9b6c3"]),
        })
    }
}

/// `grounds` are page, card, tint, rule, text and muted.
fn mode(accent: Colour, grounds: &[&str; 6]) -> Mode {
    let grounds = grounds.map(|hex| Colour::parse(hex).unwrap_or(Colour(0, 0, 0)));
    let [page, card, tint, rule, text, muted] = grounds;
    let link = accent.readable_on(&[card, tint, page]);
    let button_text = [Colour(255, 255, 255), Colour(0x10, 0x18, 0x20)]
        .into_iter()
        .max_by(|a, b| a.contrast(link).total_cmp(&b.contrast(link)))
        .unwrap_or(card);
    Mode {
        page: page.hex(),
        card: card.hex(),
        tint: tint.hex(),
        rule: rule.hex(),
        text: text.hex(),
        muted: muted.hex(),
        link: link.hex(),
        button: link.hex(),
        button_text: button_text.hex(),
    }
}

impl Colour {
    /// Reads `#rrggbb` or `#rgb`.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix('#')?;
        let channel =
            |at: usize, length: usize| u8::from_str_radix(hex.get(at..at + length)?, 16).ok();
        if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        match hex.len() {
            6 => Some(Self(channel(0, 2)?, channel(2, 2)?, channel(4, 2)?)),
            3 => Some(Self(channel(0, 1)? * 17, channel(1, 1)? * 17, channel(2, 1)? * 17)),
            _ => None,
        }
    }

    /// The colour as `#rrggbb`.
    pub fn hex(self) -> String {
        format!("#{:02x}{:02x}{:02x}", self.0, self.1, self.2)
    }

    /// The contrast of two colours, from 1 to 21 (WCAG 2.2).
    pub fn contrast(self, other: Self) -> f64 {
        let (a, b) = (self.luminance(), other.luminance());
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    fn luminance(self) -> f64 {
        let linear = |channel: u8| {
            let value = f64::from(channel) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(self.0) + 0.7152 * linear(self.1) + 0.0722 * linear(self.2)
    }

    /// This colour, made darker or lighter until it can be read on all of `grounds`.
    fn readable_on(self, grounds: &[Self]) -> Self {
        let light_ground = grounds.iter().all(|ground| ground.luminance() > 0.4);
        let end = if light_ground { 0.0 } else { 255.0 };
        (0..=50)
            .map(|step| self.towards(end, f64::from(step) / 50.0))
            .find(|colour| grounds.iter().all(|ground| colour.contrast(*ground) >= CONTRAST_MIN))
            .unwrap_or(if light_ground { Self(0, 0, 0) } else { Self(255, 255, 255) })
    }

    fn towards(self, end: f64, share: f64) -> Self {
        let mix =
            |channel: u8| (f64::from(channel) + (end - f64::from(channel)) * share).round() as u8;
        Self(mix(self.0), mix(self.1), mix(self.2))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn contrast_is_wcags() {
        let black = Colour::parse("#000").unwrap();
        let white = Colour::parse("#ffffff").unwrap();
        assert!((black.contrast(white) - 21.0).abs() < 1e-9);
        let grey = Colour::parse("#767676").unwrap();
        assert!((grey.contrast(white) - 4.54).abs() < 0.01);
        for no_colour in ["", "#", "red", "#ff", "#gggggg", "#+12345", "#é12"] {
            assert_eq!(Colour::parse(no_colour), None, "{no_colour}");
        }
    }

    proptest! {
        #[test]
        fn any_accent_can_be_read_in_both_modes(r: u8, g: u8, b: u8) {
            let palette = Palette::new(&Colour(r, g, b).hex()).unwrap();
            for mode in [&palette.light, &palette.dark] {
                let colour = |hex: &str| Colour::parse(hex).unwrap();
                for ground in [&mode.page, &mode.card, &mode.tint] {
                    for text in [&mode.text, &mode.muted, &mode.link] {
                        let contrast = colour(text).contrast(colour(ground));
                        prop_assert!(contrast >= CONTRAST_MIN, "{text} on {ground}: {contrast:.2}");
                    }
                }
                let contrast = colour(&mode.button_text).contrast(colour(&mode.button));
                prop_assert!(contrast >= CONTRAST_MIN, "button {contrast:.2}");
            }
        }
    }
}
