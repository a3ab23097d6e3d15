"""What devices publish, from the queue into which the rules of IoT Core put it."""
