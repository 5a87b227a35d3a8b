"""IKEv2 (RFC 7296): the exchange of keys with a site's peer, without sockets or clocks."""
