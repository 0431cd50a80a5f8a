"""mailgw: a mail gateway that can be read in an afternoon, extended in ten lines, and trusted with mail.

The way of a message is the table of contents of the house:

=================  ====================  ==============================================================
``values/``        what is said          frozen values: address, reply, facts, decision, content, delivery
``smtp/``          the language          sans-I/O engines for SMTP and LMTP
``senderauth/``    who really sent it    pure functions of facts and a resolver
``receive/``       bytes in              the protocol, the conversation, asking, the trace header
``policies/``      may it pass?          one file, one opinion
``queue/``         keep it safe          states, retry, fairness, dispatcher, bounce
``routes/``        where to?             asked in order by ``routing``: at RCPT, and again at delivery
``gateways/``      bring it there        smarthost, MX, LMTP, Maildir, ...
``storage/``       where it lies         SQLite, in process, and the writer thread
=================  ====================  ==============================================================

Around them: ``login/`` (who are you?), ``fetching/`` (POP3), ``dns/``, ``tls``, ``journal`` and ``observe/`` (what happened), ``config/``,
``components`` and ``assemble`` (who knows whom), ``tap`` (twistd), ``admin/`` (the operator), ``testing/`` (plugin authors).
Plugins import from ``mailgw.api`` and from nowhere else.
"""
