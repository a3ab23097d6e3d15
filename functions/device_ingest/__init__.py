"""Messages of devices, from the queue into which the rules of IoT Core put them: checked, stored, answered."""
