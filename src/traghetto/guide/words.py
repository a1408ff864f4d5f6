"""The words around the facts: labels of the pages and of `traghetto errors show`, per language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from traghetto.guide.explanations import Charged, Language


@dataclass(frozen=True, slots=True)
class Words:
    """What is written in one language, beside the explanations."""

    language: str
    """The language's name for itself."""

    # Facts
    code: str
    status: str
    message: str
    log_level: str
    header: str
    body_shape: str
    body_example: str
    retry: str
    counted: str
    charged: str
    yes: str
    no: str
    none: str
    charges: dict[Charged, str]

    # Explanations
    meaning: str
    causes: str
    remedy: str
    charge: str
    other_messages: str
    recipe: str

    # Pages
    title: str
    introduction: str
    caption: str
    code_and_message: str
    skip: str
    languages: str
    all_codes: str
    neighbours: str
    facts: str
    not_served: str
    for_programs: str


WORDS: Final[dict[Language, Words]] = {
    "en": Words(
        language="English",
        code="Code",
        status="Status",
        message="Message",
        log_level="Log level",
        header="Header",
        body_shape="Body shape",
        body_example="Body example",
        retry="Retry",
        counted="Counted as failed",
        charged="Charged",
        yes="yes",
        no="no",
        none="none",
        charges={"never": "never", "sometimes": "sometimes"},
        meaning="Meaning",
        causes="Possible causes",
        remedy="What to do",
        charge="What is charged",
        other_messages="Other messages of this code",
        recipe="See it happen",
        title="Errors",
        introduction="The codes of the published contract, as this server sends them. An error "
        "answer names its code in `x-error-code`, and says in `x-should-retry` whether the same "
        "request can succeed later.",
        caption="The codes, in the order of the contract",
        code_and_message="Code and message",
        skip="Skip to the content",
        languages="Language",
        all_codes="All errors",
        neighbours="Neighbouring codes",
        facts="Facts",
        not_served="No endpoint of this server gives this code yet.",
        for_programs="This address answers JSON to whoever does not ask for `text/html`.",
    ),
    "it": Words(
        language="Italiano",
        code="Codice",
        status="Stato",
        message="Messaggio",
        log_level="Livello di log",
        header="Intestazione",
        body_shape="Forma del corpo",
        body_example="Esempio di corpo",
        retry="Riprova",
        counted="Conta come fallita",
        charged="Addebito",
        yes="sì",
        no="no",
        none="nessuno",
        charges={"never": "mai", "sometimes": "in alcuni casi"},
        meaning="Significato",
        causes="Possibili cause",
        remedy="Che cosa fare",
        charge="Che cosa si paga",
        other_messages="Altri messaggi di questo codice",
        recipe="Provalo tu",
        title="Errori",
        introduction="I codici del contratto pubblicato, come li invia questo server. Una risposta "
        "di errore indica il suo codice in `x-error-code`, e dice in `x-should-retry` se la stessa "
        "richiesta può riuscire più tardi.",
        caption="I codici, nell'ordine del contratto",
        code_and_message="Codice e messaggio",
        skip="Vai al contenuto",
        languages="Lingua",
        all_codes="Tutti gli errori",
        neighbours="Codici vicini",
        facts="Dati",
        not_served="Nessun endpoint di questo server dà ancora questo codice.",
        for_programs="Questo indirizzo risponde in JSON a chi non chiede `text/html`.",
    ),
}
