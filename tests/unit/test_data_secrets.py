"""Secrets are looked for by the kinds that a text hints at: that finds what all patterns together find."""

import random
import string

import pytest

from tuneyard_trainer.data import secrets
from tuneyard_trainer.data.secrets import KINDS, may_have_secrets, without_secrets

WORD = string.ascii_letters + string.digits
HEX = "0123456789abcdef"


def word(count: int, letters: str = WORD) -> str:
    """Has capital and small letters and digits, where `letters` has them."""
    chance = random.Random(count)  # noqa: S311
    sure = "Ab1" if letters == WORD else ""
    return sure + "".join(chance.choices(letters, k=count - len(sure)))


SECRETS = {
    "private-key": f"-----BEGIN RSA PRIVATE KEY-----\n{word(64)}\n-----END RSA PRIVATE KEY-----",
    "aws-access-key": "AKIA" + word(16, string.ascii_uppercase),
    "github-token": "ghs_" + word(36),
    "gitlab-token": "glpat-" + word(20),
    "slack-token": "xoxb-" + word(24),
    "slack-webhook": "https://hooks.slack.com/services/" + word(24),
    "anthropic-key": "sk-ant-" + word(40),
    "openai-key": "sk-proj-" + word(40),
    "huggingface-token": "hf_" + word(34, string.ascii_letters),
    "google-api-key": "AIza" + word(35),
    "google-oauth": "ya29." + word(30),
    "stripe-key": "sk_live_" + word(24),
    "npm-token": "npm_" + word(36),
    "pypi-token": "pypi-AgE" + word(50),
    "sendgrid-key": f"SG.{word(22)}.{word(43)}",
    "twilio-key": "AC" + word(32, HEX),
    "telegram-token": "123456789:AA" + word(33),
    "digitalocean-token": "dop_v1_" + word(64, HEX),
    "databricks-token": "dapi" + word(32, HEX),
    "vault-token": "hvs." + word(24),
    "azure-key": "AccountKey=" + word(44),
    "jwt": f"eyJ{word(12)}.eyJ{word(12)}.{word(12)}",
    "url-password": "postgres://joe:hunter22x@db:5432",
    "bearer-token": "Bearer " + word(30),
    "assigned-key": "api_key = " + word(20),
    "assigned-password": "password: hunter22x",
}
PLAIN = (
    "The token of a ServiceAccount is a secret; the key selects it.",
    "A secret: ValidatingWebhookConfiguration",
    "비밀번호는 여덟 글자 이상이어야 합니다.",
    "Pass the key as https://example.com/a?b=1.",
)


def test_there_is_an_example_of_every_kind() -> None:
    assert SECRETS.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_found_alone(kind: str) -> None:
    text = f"Use it: ({SECRETS[kind]}) and then go on."
    assert may_have_secrets(text)
    assert f"[{kind}]" in without_secrets(text)


def test_texts_about_secrets_have_none() -> None:
    assert [without_secrets(text) for text in PLAIN] == [*PLAIN]


def test_hints_change_nothing() -> None:
    """Some texts of several pieces, against the pattern of all kinds."""
    whole, chance = secrets._pattern(frozenset(KINDS)), random.Random(5)  # noqa: S311
    for _ in range(300):
        text = " ".join(chance.choices([*SECRETS.values(), *PLAIN, "so"], k=chance.randint(1, 5)))
        assert without_secrets(text) == whole.sub(secrets._replacement, text)
