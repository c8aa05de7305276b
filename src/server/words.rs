//! What peers are told, in other languages than English. The English sentence is the key, as it stands
//! in its own table; a peer is told in the language of its stream (RFC 6120 section 4.7.4) if it is
//! here, and in English if not. Machines go by the reason, which is the same in every language.

/// An enum whose variants have a name for machines and words for people: one table for both.
macro_rules! spoken {
    (
        $(#[$about:meta])* $Enum:ident:
        $($(#[$doc:meta])* $variant:ident $name:literal $text:literal;)*
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $Enum {
            $($(#[$doc])* $variant,)*
        }

        impl $Enum {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name on every face.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The words; [`crate::words`] has them in other languages.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}
pub(crate) use spoken;

/// English to German.
const GERMAN: &[(&str, &str)] = &[
    (
        "All sessions from before were ended; log in again",
        "Alle früheren Sitzungen wurden beendet; bitte neu anmelden",
    ),
    ("All sessions were ended; log in again", "Alle Sitzungen wurden beendet; bitte neu anmelden"),
    (
        "A token of this account that had been replaced was used again, perhaps by a thief; all that \
         came from it is void",
        "Ein Token dieses Kontos war ersetzt und wurde erneut benutzt, vielleicht von einem Dieb; alles, \
         was daraus entstand, ist ungültig",
    ),
    (
        "An administrator has changed what this account may do",
        "Die Verwaltung hat geändert, was dieses Konto darf",
    ),
    (
        "An administrator has ended all sessions of this account",
        "Die Verwaltung hat alle Sitzungen dieses Kontos beendet",
    ),
    (
        "An administrator has set another password for this account",
        "Die Verwaltung hat für dieses Konto ein anderes Passwort gesetzt",
    ),
    (
        "A newer session has taken the place of this one",
        "Eine neuere Sitzung hat den Platz dieser Sitzung eingenommen",
    ),
    (
        "Another session has taken this resource",
        "Eine andere Sitzung hat diese Ressource übernommen",
    ),
    ("Login took too long", "Die Anmeldung hat zu lange gedauert"),
    (
        "Nobody came to resume this session in time",
        "Diese Sitzung wurde nicht rechtzeitig fortgesetzt",
    ),
    ("No resource was bound in time", "Es wurde nicht rechtzeitig eine Ressource gebunden"),
    ("The connection was lost", "Die Verbindung ist abgebrochen"),
    (
        "The credential of this session was revoked",
        "Die Zugangsdaten dieser Sitzung wurden widerrufen",
    ),
    ("The password of this account was changed", "Das Passwort dieses Kontos wurde geändert"),
    ("The password was changed; log in again", "Das Passwort wurde geändert; bitte neu anmelden"),
    (
        "The role of this account changed; log in again",
        "Die Rolle dieses Kontos wurde geändert; bitte neu anmelden",
    ),
    (
        "The server cannot check this now; try again",
        "Der Server kann das gerade nicht prüfen; bitte später erneut versuchen",
    ),
    ("The server failed to handle this session", "Im Server ist ein Fehler aufgetreten"),
    ("The server is shutting down", "Der Server wird heruntergefahren"),
    (
        "The server is too busy for connections that have not logged in",
        "Der Server ist zu stark belastet für Verbindungen ohne Anmeldung",
    ),
    (
        "The stream broke a rule of the protocol",
        "Der Stream hat eine Regel des Protokolls verletzt",
    ),
    ("The stream was closed", "Der Stream wurde geschlossen"),
    ("The token of this session has expired", "Das Token dieser Sitzung ist abgelaufen"),
    (
        "This stream goes on over another connection",
        "Dieser Stream wird über eine andere Verbindung fortgesetzt",
    ),
    (
        "This account has another name now; log in with that",
        "Dieses Konto hat jetzt einen anderen Namen; bitte mit diesem anmelden",
    ),
    ("This account has been deleted", "Dieses Konto wurde gelöscht"),
    ("This account has been disabled", "Dieses Konto wurde gesperrt"),
    ("This account is disabled", "Dieses Konto ist gesperrt"),
    (
        "This account was not used for too long; ask an administrator to enable it",
        "Dieses Konto wurde zu lange nicht benutzt; bitte von der Verwaltung freischalten lassen",
    ),
    ("This client is blocked", "Dieses Gerät ist gesperrt"),
    ("This client is locked", "Dieses Gerät ist eingefroren"),
    (
        "This client may not come back yet; try again later",
        "Dieses Gerät darf noch nicht wiederkommen; bitte später erneut versuchen",
    ),
    ("This client was logged out", "Dieses Gerät wurde abgemeldet"),
    (
        "This connection was closed by an administrator",
        "Diese Verbindung wurde von der Verwaltung getrennt",
    ),
    (
        "This session has reached its greatest age; log in again",
        "Diese Sitzung hat ihre Höchstdauer erreicht; bitte neu anmelden",
    ),
    (
        "This session was ended by an administrator",
        "Diese Sitzung wurde von der Verwaltung beendet",
    ),
    (
        "This session was inactive for too long; log in again",
        "Diese Sitzung war zu lange untätig; bitte neu anmelden",
    ),
    (
        "This token had been replaced and was used again; all that came from it is void",
        "Dieses Token war ersetzt und wurde erneut benutzt; alles, was daraus entstand, ist ungültig",
    ),
    ("This token has expired", "Dieses Token ist abgelaufen"),
    ("This token is not for logging in", "Mit diesem Token kann man sich nicht anmelden"),
    (
        "This token is void since the password was changed",
        "Dieses Token gilt nicht mehr, weil das Passwort geändert wurde",
    ),
    ("This token was not used for too long", "Dieses Token wurde zu lange nicht benutzt"),
    ("This token was replaced by a newer one", "Dieses Token wurde durch ein neueres ersetzt"),
    ("This token was revoked", "Dieses Token wurde widerrufen"),
    (
        "Too much data waits to be read by this client",
        "Zu viele Daten warten darauf, von diesem Gerät gelesen zu werden",
    ),
];

/// All languages but English, by their primary subtag (RFC 5646).
const LANGUAGES: &[(&str, &[(&str, &str)])] = &[("de", GERMAN)];

/// An English sentence in the language of a stream, and that language; none if it is to stay as it is.
#[must_use]
pub fn translate(english: &str, lang: &str) -> Option<(&'static str, &'static str)> {
    let primary = lang.split('-').next().unwrap_or(lang);
    let (lang, words) = LANGUAGES.iter().find(|(name, _)| name.eq_ignore_ascii_case(primary))?;
    let (_, text) = words.iter().find(|(key, _)| *key == english)?;
    Some((text, lang))
}

/// An English sentence in all other languages that have it, with their names.
pub fn translations(english: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    LANGUAGES
        .iter()
        .filter_map(move |(lang, _)| translate(english, lang).map(|(text, lang)| (lang, text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::Over, end::Reason, notice::Notice};

    #[test]
    fn ro_34_every_reason_has_words_in_every_language() {
        let reasons = Reason::ALL.iter().map(|reason| reason.text());
        let overs = Over::ALL.iter().map(|over| over.text());
        let notices = Notice::ALL.iter().map(|notice| notice.text());
        for english in reasons.chain(overs).chain(notices) {
            for (lang, _) in LANGUAGES {
                assert!(translate(english, lang).is_some(), "{lang}: {english}");
            }
        }
    }

    #[test]
    fn a_language_is_known_by_its_primary_subtag_and_english_stays() {
        let told = translate("This token was revoked", "DE-at").map(|(_, lang)| lang);
        assert_eq!(told, Some("de"));
        assert_eq!(translate("This token was revoked", "en"), None);
        assert_eq!(translate("lost in the tram", "de"), None);
    }
}
