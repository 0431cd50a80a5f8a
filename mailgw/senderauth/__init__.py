"""Who really sent it: SPF, DKIM, DMARC and ARC as functions of facts and a resolver. The room is kept for them."""
