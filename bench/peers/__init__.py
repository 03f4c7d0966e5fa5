"""Small servers in other libraries that relay chat messages, each written in the best idiom of its library.

Every socket on a path gets a `message_added` of about 670 bytes for each `send_message` that arrives there.
These servers check no token, keep no order across sockets and store nothing.
"""
