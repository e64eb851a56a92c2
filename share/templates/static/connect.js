// Steps with texts to be copied.
"use strict";

for (const place of document.querySelectorAll("[data-copyable]")) place.replaceWith(copyable(place.textContent.replaceAll("{origin}", location.origin)));
