"""``poolax lipschitz``."""
import dataclasses
@dataclasses.dataclass(frozen=True)
class Lipschitz:
    """x."""
    debug: bool = False
