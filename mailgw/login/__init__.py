"""Who are you? twisted.cred realm and credential back ends. The room is kept for them."""
