"""A device's way to its own files: it asks by MQTT, and sends and fetches bytes by HTTPS (docs/adr/0076).

- **Ask**: a message of a device on `file/karma/<thing>/ask`, with an id of the device's choice. **Answer**: what it
  hears on `file/karma/<thing>/answer`, to which no other thing may listen.
- **Heard device**: the one whose certificate sent the ask (karma.devices.speaking).

A device reaches the files of its own directory tree, in its owner's account, and these by the same services as its
owner; the owner's rights are those of now. It uploads, downloads and lists; it changes and deletes nothing.

An ask may be delivered twice, and is asked again under the same id by a device that heard no answer. An upload's id is
the name of its request (karma.core.requests), so one file is made; every other ask leaves the same behind however often
it is asked. A process that dies before the answer leaves an upload that the next ask of the same id finds, or the sweep
of files ends after a day. Nothing is answered to what is older than `STALE`: its device has given up or asked again.

Mistakes that remain possible: an answer that the broker could not deliver is lost with its links, and the device asks
again. Bytes of a link that was given before the device was deleted may still arrive for 15 minutes; the sweep of the
device removes them, or the rule of the bucket that ends unfinished uploads does.
"""
