# SPDX-License-Identifier: Apache-2.0
from typing import final

@final
class Pin: ...

@final
class Pins:
    @property
    def log(self) -> object: ...
