"""Never answers."""
# expect: status=TIMEOUT foul=timeout definition=silu


def run(x):
    while True:
        pass
