"""What the operator decided, from the template's parameters."""

from gateway.access import Policy, Reaction
from gateway.settings import one_of, whole_number

_REACTIONS: tuple[Reaction, ...] = ("ignore", "flag", "revoke")


def policy() -> Policy:
    """The policy that the environment gives; SettingMissing, with its name, where a variable does not."""
    return Policy(
        grace=whole_number("GRACE_PERIOD_HOURS") * 3600,
        max_dapps=whole_number("MAX_DAPPS"),
        written_off=one_of("WRITTEN_OFF", *_REACTIONS),
        paused_collection=one_of("PAUSED_COLLECTION", *_REACTIONS),
        refunded=one_of("REFUNDED", *_REACTIONS),
        disputed=one_of("DISPUTED", *_REACTIONS),
        dispute_lost=one_of("DISPUTE_LOST", *_REACTIONS),
        fraud_warning=one_of("FRAUD_WARNING", *_REACTIONS),
        customer_deleted=one_of("CUSTOMER_DELETED", *_REACTIONS),
    )
