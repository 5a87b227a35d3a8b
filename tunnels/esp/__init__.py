"""ESP (RFC 4303): what carries a site's packets."""
