"""Whole numbers: primes, prime factors, elements of an order."""

from __future__ import annotations

__all__ = ["element_of_order", "is_prime", "prime_factors"]


def prime_factors(number: int) -> list[int]:
    """The different prime factors of a number, ascending.

    Example:
        >>> prime_factors(60), prime_factors(1)
        ([2, 3, 5], [])
    """
    found = []
    factor = 2
    while factor * factor <= number:
        if number % factor == 0:
            found.append(factor)
            while number % factor == 0:
                number //= factor
        factor += 1
    return [*found, number] if number > 1 else found


def is_prime(number: int) -> bool:
    """Whether a number is a prime.

    Example:
        >>> [number for number in range(12) if is_prime(number)]
        [2, 3, 5, 7, 11]
    """
    return prime_factors(number) == [number]


def element_of_order(order: int, prime: int) -> int:
    """A number whose powers repeat after `order` steps modulo a prime; order divides prime - 1.

    Of the powers base**((prime - 1) / order) for base 2, 3, ... the first that serves (1, where
    nothing else is asked for).

    Example:
        >>> [element_of_order(3, 7) ** power % 7 for power in range(4)]
        [1, 4, 2, 1]
    """
    factors = prime_factors(order)
    powers = (pow(base, (prime - 1) // order, prime) for base in range(1, prime))
    return next(h for h in powers if all(pow(h, order // f, prime) != 1 for f in factors))
