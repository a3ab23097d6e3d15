"""EOS devices: their registration, what they report, and the commands that they carry out.

- **Device**: a row of its owner's; it proves itself by a certificate, and its serial number is its name at the broker.
- **Sample** and **batch**: metrics at one moment, and those of an hour in one message. **Latest**: the newest of each.
- **Command**: a request to a device, with a time limit; the **queue** of a device holds those that are not over.
- **Dead letter**: what a device sent and nobody could read. **Wake-up**: a call to look at a queue later.
"""
